//! The JSON Schema of the policy file, for editors. Written by hand, because it explains; a test holds it to the words
//! that the reader knows.

/// JSON Schema (draft 2020-12) of a policy.
pub fn schema() -> &'static str {
    include_str!("schema.json")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::{raw, scalar};
    use super::schema;
    use crate::policy::answer::Fact;
    use crate::policy::refusal::Refusal;

    fn parsed() -> Value {
        serde_json::from_str(schema()).unwrap()
    }

    fn words(node: &Value) -> Vec<&str> {
        let mut words: Vec<&str> =
            node["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        words.sort_unstable();
        words
    }

    #[test]
    fn the_schema_knows_exactly_the_words_that_the_reader_knows() {
        let schema = parsed();
        let shapes: &[(&str, &[&str])] = &[
            ("", raw::Policy::WORDS),
            ("listen", raw::Listen::WORDS),
            ("listen_tls", raw::ListenTls::WORDS),
            ("upstream", raw::Upstream::WORDS),
            ("pool", raw::Pool::WORDS),
            ("state", raw::State::WORDS),
            ("client_address", raw::ClientAddress::WORDS),
            ("header_place", raw::HeaderPlace::WORDS),
            ("credentials", raw::Credentials::WORDS),
            ("place", raw::Place::WORDS),
            ("new_keys", raw::NewKeys::WORDS),
            ("admin", raw::Admin::WORDS),
            ("auto_revoke", raw::AutoRevoke::WORDS),
            ("balance", raw::BalanceHeader::WORDS),
            ("cost", raw::Cost::WORDS),
            ("answer_rule", raw::AnswerRule::WORDS),
            ("idempotency", raw::Idempotency::WORDS),
            ("route_idempotency", raw::RouteIdempotency::WORDS),
            ("route", raw::Route::WORDS),
            ("scope_rule", raw::ScopeRule::WORDS),
            ("allow_rule", raw::AllowRule::WORDS),
            ("tenant_place", raw::TenantPlace::WORDS),
            ("limit", raw::Limit::WORDS),
            ("plan", raw::Plan::WORDS),
            ("tenant", raw::Tenant::WORDS),
            ("override_rule", raw::OverrideRule::WORDS),
            ("report", raw::Report::WORDS),
            ("identity", raw::Identity::WORDS),
            ("errors", raw::Errors::WORDS),
            ("errors_on", raw::ErrorsOn::WORDS),
            ("bounds", raw::Bounds::WORDS),
            ("drain", raw::Drain::WORDS),
            ("record", raw::Record::WORDS),
            ("ready", raw::Ready::WORDS),
            ("key_entry", raw::KeyEntry::WORDS),
            ("key_digest", raw::KeyDigest::WORDS),
            ("revoked", raw::Revoked::WORDS),
            ("secret_place", raw::SecretPlace::WORDS),
        ];
        let closed: Vec<&str> = schema["$defs"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, node)| node["additionalProperties"] == Value::Bool(false))
            .map(|(name, _)| name.as_str())
            .collect();
        for name in &closed {
            assert!(shapes.iter().any(|(shape, _)| shape == name), "no shape for `{name}`");
        }
        for (name, known) in shapes {
            let node = if name.is_empty() { &schema } else { &schema["$defs"][*name] };
            let mut known = known.to_vec();
            known.sort_unstable();
            assert_eq!(words(node), known, "`{name}`");
        }
    }

    #[test]
    fn the_schema_knows_every_word_of_a_closed_list() {
        let schema = parsed();
        let limit = &schema["$defs"]["limit"]["properties"];
        let same = |node: &Value, known: &[&str]| {
            let listed: Vec<&str> = node["enum"]
                .as_array()
                .unwrap()
                .iter()
                .map(|word| word.as_str().unwrap())
                .collect();
            assert_eq!(listed, known);
        };
        same(&limit["window"], scalar::WindowWord::WORDS);
        same(&limit["counts"], scalar::CountsWord::WORDS);
        same(&limit["credit"], scalar::CreditWord::WORDS);
        same(&limit["on_store_failure"], scalar::StoreFailureWord::WORDS);
        let route = &schema["$defs"]["route"]["properties"];
        same(&route["charge_on"]["anyOf"][0], scalar::ChargeWord::WORDS);
        same(&route["idempotency"]["anyOf"][0], scalar::IdempotencyWord::WORDS);
        same(&route["answer"]["anyOf"][0], scalar::AnswerWord::WORDS);
        let own = &schema["$defs"]["route_idempotency"]["properties"];
        same(&own["demand"], scalar::DemandWord::WORDS);
        same(&own["on_unknown"], scalar::OnUnknownWord::WORDS);
        same(&schema["$defs"]["limit_mode"], scalar::LimitMode::WORDS);
        same(&schema["$defs"]["rule_mode"], scalar::RuleMode::WORDS);
        same(&schema["$defs"]["route"]["properties"]["on_revoke"], scalar::OnRevokeWord::WORDS);
        same(&schema["$defs"]["upstream"]["properties"]["protocol"], scalar::ProtocolWord::WORDS);
        let report = &schema["$defs"]["report"]["properties"];
        same(&report["x-ratelimit"], scalar::XRateLimitWord::WORDS);
        same(&report["ratelimit"], scalar::RateLimitWord::WORDS);
        same(&report["spelling"], scalar::SpellingWord::WORDS);
        let refusals = words(&schema["$defs"]["errors"]["properties"]["on"]);
        let mut known: Vec<&str> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
        known.sort_unstable();
        assert_eq!(refusals, known);
        let placeholders = schema["$defs"]["template"]["description"].as_str().unwrap();
        for (word, _) in Fact::ALL {
            assert!(placeholders.contains(&format!("{{{word}}}")), "{word}");
        }
    }

    /// The keywords that the schema uses, enough to hold documents to it.
    fn fits(value: &Value, node: &Value, root: &Value) -> Result<(), String> {
        let no = |why: &str| Err(format!("{value} is no {why}: {node}"));
        if let Some(name) = node["$ref"].as_str() {
            let name = name.strip_prefix("#/$defs/").unwrap();
            return fits(value, &root["$defs"][name], root);
        }
        if let Some(any) = node["anyOf"].as_array()
            && !any.iter().any(|one| fits(value, one, root).is_ok())
        {
            return no("any of these");
        }
        if node.get("const").is_some_and(|only| only != value) {
            return no("such constant");
        }
        if node["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            return no("such word");
        }
        let kinds: Vec<&str> = match &node["type"] {
            Value::String(kind) => vec![kind.as_str()],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let is = |kind: &&str| match *kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            _ => value.is_null(),
        };
        if !kinds.is_empty() && !kinds.iter().any(is) {
            return no("such type");
        }
        for item in value.as_array().into_iter().flatten() {
            if let Some(items) = node.get("items") {
                fits(item, items, root)?;
            }
        }
        for (word, member) in value.as_object().into_iter().flatten() {
            match (node["properties"].get(word), node.get("additionalProperties")) {
                (Some(property), _) => fits(member, property, root)?,
                (None, Some(Value::Bool(false))) => return no(word),
                (None, Some(others)) => fits(member, others, root)?,
                (None, None) => {}
            }
        }
        for word in node["required"].as_array().into_iter().flatten() {
            if value.get(word.as_str().unwrap()).is_none() {
                return no("whole");
            }
        }
        Ok(())
    }

    #[test]
    fn the_example_fits_the_schema_and_a_misspelt_word_does_not() {
        let text = include_str!("../../tests/examples/design.yaml");
        let schema = parsed();
        let mut policy: Value = serde_saphyr::from_str(text).unwrap();
        fits(&policy, &schema, &schema).unwrap();
        policy["limits"]["throttle"]["windw"] = Value::from("sliding");
        fits(&policy, &schema, &schema).unwrap_err();
    }
}
