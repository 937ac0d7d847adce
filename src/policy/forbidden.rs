//! What a client may not say to the backend: fields by which it would speak for the gate, for a proxy, or for another caller.

use http::HeaderName;

/// Fields that are always the gate's or a proxy's to write. Each stands for its `_` spellings too, which many backends
/// read as the same field.
const ALWAYS: [&str; 18] = [
    "cf-connecting-ip",
    "forwarded",
    "proxy",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// Every `x-forwarded-…` field, whatever it ends in.
const FORWARDED_FAMILY: &[u8] = b"x-forwarded-";

/// A set of field names with their `_` spellings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForbiddenFields {
    /// Lower case, with `-` for `_`, sorted.
    names: Box<[Box<str>]>,
    /// Bit n: some name is n bytes long. Nearly every honest field is passed over by this alone.
    lengths: u64,
}

impl ForbiddenFields {
    /// The fields above, and the policy's own.
    pub fn new<'a>(own: impl IntoIterator<Item = &'a HeaderName>) -> ForbiddenFields {
        let own = own.into_iter().map(|name| name.as_str().replace('_', "-").into_boxed_str());
        let mut names: Vec<Box<str>> =
            ALWAYS.iter().map(|name| (*name).into()).chain(own).collect();
        names.sort_unstable();
        names.dedup();
        let lengths = names.iter().fold(0, |set, name| set | length_bit(name.len()));
        ForbiddenFields { names: names.into(), lengths }
    }

    /// Whether a client may not send this field, whose name is given in lower case.
    pub fn forbids(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let plain = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
        if name.len() >= FORWARDED_FAMILY.len()
            && name[0] == b'x'
            && name
                .iter()
                .map(plain)
                .take(FORWARDED_FAMILY.len())
                .eq(FORWARDED_FAMILY.iter().copied())
        {
            return true;
        }
        self.lengths & length_bit(name.len()) != 0
            && self
                .names
                .binary_search_by(|forbidden| forbidden.bytes().cmp(name.iter().map(plain)))
                .is_ok()
    }
}

impl Default for ForbiddenFields {
    fn default() -> ForbiddenFields {
        ForbiddenFields::new([])
    }
}

fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_forbidden_field_is_forbidden() {
        let own = [HeaderName::from_static("x-tenant-id")];
        let forbidden = ForbiddenFields::new(&own);
        for name in [
            "x-tenant-id",
            "x_tenant_id",
            "x-tenant_id",
            "x_forwarded_for",
            "x-forwarded-anything",
            "forwarded",
            "x_real_ip",
        ] {
            assert!(forbidden.forbids(name), "{name}");
        }
        for name in ["host", "x-tenant", "x-forwarder", "accept", "x-tenant-idx", "user-agent"] {
            assert!(!forbidden.forbids(name), "{name}");
        }
    }
}
