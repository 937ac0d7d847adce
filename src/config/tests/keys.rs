//! What keys may and are bound by, and how key files are read, compiled.

use super::*;
use crate::policy::keys::{KeyStatus, SecretDigest};
use crate::policy::limit::Window;
use crate::policy::snapshot::{Grant, Standing};

#[test]
fn an_override_nearer_to_the_caller_wins() {
    let keys = [
        key("own", "acme", ", limits: { throttle: 7, extra: 3/second }"),
        key("of-tenant", "acme", ""),
        key("of-plan", "globex", ""),
        key("own-plan", "globex", ", plan: tiny"),
        key("plain", "nobody", ""),
    ];
    let snapshot = loaded(POLICY, &keys.concat(), "").snapshot;
    assert_eq!(rate(&snapshot, "own", "throttle"), Some((7, MINUTE, 4)));
    assert_eq!(rate(&snapshot, "of-tenant", "throttle"), Some((90, MINUTE, 45)));
    assert_eq!(rate(&snapshot, "of-plan", "throttle"), Some((1200, MINUTE, 600)));
    assert_eq!(rate(&snapshot, "own-plan", "throttle"), Some((5, DAY, 3)));
    assert_eq!(rate(&snapshot, "plain", "throttle"), Some((60, MINUTE, 30)));
    assert_eq!(rate(&snapshot, "own", "extra"), Some((3, 1_000_000_000, 3)));
    assert_eq!(ceiling(&snapshot, "plain", "extra"), None);
    assert_eq!(ceiling(&snapshot, "own", "open"), None);
    assert_eq!(ceiling(&snapshot, "plain", "open").unwrap().window, Window::Concurrent);
}

#[test]
fn a_keys_own_plan_does_not_touch_what_its_tenant_shares() {
    let keys = [key("own-plan", "globex", ", plan: tiny"), key("of-plan", "globex", "")];
    let snapshot = loaded(POLICY, &keys.concat(), "").snapshot;
    assert_eq!(rate(&snapshot, "own-plan", "shared"), Some((6000, MINUTE, 6000)));
    assert_eq!(rate(&snapshot, "of-plan", "shared"), Some((6000, MINUTE, 6000)));
    assert_eq!(rate(&snapshot, "own-plan", "by-plan"), Some((10, MINUTE, 10)));
    assert_eq!(rate(&snapshot, "of-plan", "by-plan"), Some((5000, MINUTE, 5000)));
}

#[test]
fn a_key_may_do_no_more_than_its_tenant_and_plan() {
    let keys = [
        key("all", "nobody", ""),
        key("none", "nobody", ", scopes: []"),
        key("tenant", "globex", ""),
        key("cut", "globex", ", plan: tiny, scopes: [read, send]"),
    ];
    let snapshot = loaded(POLICY, &keys.concat(), "").snapshot;
    let granted = |id: &str| match snapshot.grant(found(&snapshot, id).entitlement.grant) {
        Grant::All => vec!["*".to_owned()],
        Grant::Only(scopes) => {
            scopes.iter().map(|ix| snapshot.scopes[ix.0 as usize].to_string()).collect()
        }
    };
    assert_eq!(granted("all"), ["*"]);
    assert!(granted("none").is_empty());
    assert_eq!(granted("tenant"), ["read", "send"]);
    assert_eq!(granted("cut"), ["read"]);
}

#[test]
fn the_last_line_of_an_id_wins() {
    let lines = [
        line("one", "acme", 1, ",\"scopes\":[\"read\"]"),
        line("two", "acme", 2, ""),
        "\n".to_owned(),
        line("one", "globex", 3, ",\"revoked\":{\"at\":\"2026-01-01\",\"why\":\"left\"}"),
    ];
    let loaded = loaded(POLICY, "[]", &lines.concat());
    let snapshot = &loaded.snapshot;
    assert_eq!(snapshot.keys.len(), 2);
    let one = found(snapshot, "one");
    assert_eq!(one.entitlement.status, KeyStatus::Revoked);
    assert_eq!(&*snapshot.tenant(one.entitlement.tenant).name, "globex");
    assert_eq!(loaded.origins.keys[0], (1, 4));
    let digest = |last: u8| {
        let mut digest = [0; 32];
        digest[31] = last;
        SecretDigest(digest)
    };
    assert!(snapshot.keys.find(&digest(3)).is_some());
    assert!(snapshot.keys.find(&digest(1)).is_none());
}

#[test]
fn lines_of_json_say_what_yaml_says() {
    let rest = ", plan: tiny, scopes: [read], not_before: 2026-01-01, expires: 2027-01-31T12:00:00Z, \
                allow: [10.0.0.0/8], limits: { throttle: { rate: 9/minute, burst: 5 } }, label: x";
    let json = ",\"plan\":\"tiny\",\"scopes\":[\"r\\u0065ad\"],\"not_before\":\"2026-01-01\",\
                \"expires\":\"2027-01-31T12:00:00Z\",\"allow\":[\"10.0.0.0/8\"],\
                \"limits\":{\"throttle\":{\"rate\":\"9/minute\",\"burst\":5}},\"label\":\"x\"";
    let snapshot =
        loaded(POLICY, &key("yaml", "acme", rest), &line("json", "acme", 9, json)).snapshot;
    let (yaml, json) = (found(&snapshot, "yaml"), found(&snapshot, "json"));
    assert_eq!(
        (yaml.entitlement.tenant, yaml.entitlement.plan, yaml.entitlement.grant),
        (json.entitlement.tenant, json.entitlement.plan, json.entitlement.grant)
    );
    assert_eq!(
        (yaml.entitlement.terms, yaml.entitlement.allow),
        (json.entitlement.terms, json.entitlement.allow)
    );
    assert_eq!(
        (yaml.entitlement.not_before, yaml.entitlement.expires),
        (json.entitlement.not_before, json.entitlement.expires)
    );
    assert_eq!(json.entitlement.expires, Some(Wall(1_801_396_800_000)));
    assert_eq!(rate(&snapshot, "json", "throttle"), Some((9, MINUTE, 5)));
}

#[test]
fn keys_that_set_nothing_share_what_decides_about_them() {
    let lines: String = (0..500).map(|n| line(&format!("k{n}"), "acme", n + 1, "")).collect();
    let snapshot = loaded(POLICY, "[]", &lines).snapshot;
    assert_eq!(snapshot.keys.len(), 500);
    assert_eq!((snapshot.terms.len(), snapshot.grants.len()), (1, 1));
}

#[test]
fn tenants_that_are_not_listed_may_come_unless_closed() {
    let keys = key("one", "stranger", "");
    let open = loaded(POLICY, &keys, "").snapshot;
    assert_eq!(open.tenant(found(&open, "one").entitlement.tenant).standing, Standing::Active);
    let policy = POLICY.replace("tenants:", "tenants:\n  unlisted: closed");
    let closed = loaded(&policy, &keys, "").snapshot;
    assert_eq!(
        closed.tenant(found(&closed, "one").entitlement.tenant).standing,
        Standing::Inactive
    );
    assert!(!closed.tenants_by_name().contains_key("unlisted"));
}

#[test]
fn a_key_that_a_closed_policy_shuts_out_is_told() {
    let keys = key("one", "acmee", "") + &key("two", "acme", "");
    assert!(!loaded(POLICY, &keys, "").warnings.to_string().contains("is refused"));
    let closed = POLICY.replace("tenants:", "tenants:\n  unlisted: closed");
    let told = loaded(&closed, &keys, "").warnings.to_string();
    assert!(told.contains("the key `one` is refused: its tenant `acmee` is not listed"), "{told}");
    assert!(told.contains("did you mean `acme`?"), "{told}");
    assert!(!told.contains("`two`"), "{told}");
}
