//! `WWW-Authenticate`: how a caller is told what to present. What does not depend on the request is rendered once.

use http::HeaderValue;

use super::credential::Place;
use super::refusal::Refusal;

/// The challenges of one policy. RFC 9110 §11.6.1: a 401 says how to authenticate. The reason is never told apart here: it
/// differs in the body only, and there only where the policy says so.
#[derive(Clone, Debug)]
pub struct Challenges {
    /// What a bearer without a scope is told, up to the scope; `None` where keys are no bearer tokens.
    unscoped: Option<Box<str>>,
    /// `None` only where the realm is no field value, which the loader refuses.
    unasked: Option<HeaderValue>,
    refused: Option<HeaderValue>,
}

impl Challenges {
    /// The challenges for keys in these places. `realm` is plain ASCII without quotes.
    pub fn new(realm: &str, places: &[Place]) -> Challenges {
        let bearer = places.contains(&Place::Bearer);
        let scheme = match () {
            () if bearer => "Bearer",
            () if places.contains(&Place::Basic) => "Basic",
            () => "ApiKey",
        };
        // RFC 6750 §3.1: without an error where nothing was presented.
        let error = if bearer { ", error=\"invalid_token\"" } else { "" };
        let plain = format!("{scheme} realm=\"{realm}\"");
        Challenges {
            unscoped: bearer
                .then(|| format!("{plain}, error=\"insufficient_scope\", scope=\"").into()),
            refused: HeaderValue::try_from(format!("{plain}{error}")).ok(),
            unasked: HeaderValue::try_from(plain).ok(),
        }
    }

    /// What a 401 says.
    pub fn to_unknown(&self, why: Refusal) -> Option<&HeaderValue> {
        match why {
            Refusal::KeyMissing => self.unasked.as_ref(),
            _ => self.refused.as_ref(),
        }
    }

    /// What a key without `scope` is told (RFC 6750 §3.1), in pieces; nothing where keys are no bearer tokens.
    pub fn to_unscoped<'a>(&'a self, scope: &'a str) -> Option<[&'a str; 3]> {
        self.unscoped.as_ref().map(|beginning| [beginning, scope, "\""])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(places: &[Place], why: Refusal) -> String {
        let challenges = Challenges::new("api", places);
        challenges.to_unknown(why).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_401_names_the_scheme_and_an_error_only_where_something_was_presented() {
        let bearer = [Place::Basic, Place::Bearer];
        assert_eq!(said(&bearer, Refusal::KeyMissing), "Bearer realm=\"api\"");
        assert_eq!(
            said(&bearer, Refusal::KeyUnknown),
            "Bearer realm=\"api\", error=\"invalid_token\""
        );
        assert_eq!(said(&[Place::Basic], Refusal::KeyUnknown), "Basic realm=\"api\"");
        assert_eq!(said(&[], Refusal::KeyUnknown), "ApiKey realm=\"api\"");
    }

    #[test]
    fn only_a_bearer_is_told_which_scope_it_lacks() {
        let challenges = Challenges::new("api", &[Place::Bearer]);
        assert_eq!(
            challenges.to_unscoped("read").unwrap().concat(),
            "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"read\""
        );
        assert_eq!(Challenges::new("api", &[Place::Basic]).to_unscoped("read"), None);
    }
}
