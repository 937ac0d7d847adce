//! `WWW-Authenticate`: how a caller is told what to present. What does not depend on the request is rendered once.

use http::HeaderValue;

use super::credential::Place;
use super::refusal::Refusal;

/// The challenges of one policy. RFC 9110 §11.6.1: a 401 says how to authenticate. The reason is never told apart here: it
/// differs in the body only, and there only where the policy says so.
#[derive(Clone, Debug)]
pub struct Challenges {
    realm: Box<str>,
    bearer: bool,
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
            realm: realm.into(),
            bearer,
            refused: HeaderValue::try_from(format!("{plain}{error}")).ok(),
            unasked: HeaderValue::try_from(plain).ok(),
        }
    }

    /// What a 401 says.
    pub fn to_unknown(&self, why: Refusal) -> Option<HeaderValue> {
        match why {
            Refusal::KeyMissing => self.unasked.clone(),
            _ => self.refused.clone(),
        }
    }

    /// What a key without `scope` is told (RFC 6750 §3.1); nothing where keys are no bearer tokens.
    pub fn to_unscoped(&self, scope: &str) -> Option<HeaderValue> {
        let error = "\", error=\"insufficient_scope\", scope=\"";
        // Joined, not formatted: a tenth of the price.
        let text = ["Bearer realm=\"", &self.realm, error, scope, "\""].concat();
        HeaderValue::try_from(text).ok().filter(|_| self.bearer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(places: &[Place], why: Refusal) -> String {
        let value = Challenges::new("api", places).to_unknown(why);
        value.unwrap().to_str().unwrap().to_owned()
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
        let value = Challenges::new("api", &[Place::Bearer]).to_unscoped("read");
        assert_eq!(
            value.unwrap(),
            "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"read\""
        );
        assert_eq!(Challenges::new("api", &[Place::Basic]).to_unscoped("read"), None);
    }
}
