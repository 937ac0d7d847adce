//! Stable names of what is counted. They must not change between releases: state on disk is keyed by them.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::limit::{LimitId, SubjectKey};

/// What kind of thing a name names; part of the hash, so that a tenant and a key of one name are two subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// A key's public id.
    Key,
    /// A tenant.
    Tenant,
    /// A plan.
    Plan,
    /// A route.
    Route,
}

impl SubjectKey {
    /// The subject of a limit that counts everyone together (`per` names nothing but, say, the route's absence).
    pub const EVERYONE: SubjectKey = SubjectKey(0x746f_6c6c_6761_7465_0000_0000_0000_0001);

    /// The subject with this name: the first half of a SHA-256 over kind and name.
    pub fn of(kind: SubjectKind, name: &str) -> SubjectKey {
        let tag = match kind {
            SubjectKind::Key => b'k',
            SubjectKind::Tenant => b't',
            SubjectKind::Plan => b'p',
            SubjectKind::Route => b'r',
        };
        let mut hasher = Sha256::new();
        hasher.update([tag, 0]);
        hasher.update(name.as_bytes());
        SubjectKey(first_half(hasher.finalize().as_slice()))
    }

    /// The subject of an address, IPv4 whole, IPv6 cut to `v6_prefix` bits. `address` is canonical: an IPv4-mapped
    /// one was made IPv4 when it was decided.
    pub fn of_address(address: IpAddr, v6_prefix: u8) -> SubjectKey {
        match address {
            IpAddr::V4(v4) => SubjectKey((0x0004 << 112) | u128::from(u32::from(v4))),
            IpAddr::V6(v6) => {
                let keep = u128::MAX.checked_shl(128 - u32::from(v6_prefix.min(128))).unwrap_or(0);
                // Rotated, so that the two families cannot meet: no IPv6 network ends in 0x0004.
                SubjectKey((u128::from(v6) & keep).rotate_left(64) ^ (0x0006 << 48))
            }
        }
    }

    /// The subject that newcomers around an address share when the table of addresses is full: its /24 or /48.
    pub fn of_neighbourhood(address: IpAddr) -> SubjectKey {
        // A tag of its own keeps a neighbourhood apart from the one address that has the same bits.
        const TAG: u128 = 0x00ff << 96;
        let cut = match address {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & 0xffff_ff00).into()),
            v6 @ IpAddr::V6(_) => v6,
        };
        SubjectKey(SubjectKey::of_address(cut, 48).0 ^ TAG)
    }

    /// The combination of this subject and another, in this order.
    #[must_use]
    pub fn with(self, other: SubjectKey) -> SubjectKey {
        // The names' halves of SHA-256 are uniform; an odd multiplier keeps this injective in `other` for a fixed
        // `self`, so that an address chosen by a caller cannot be made to meet another caller's.
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        SubjectKey(self.0.rotate_left(41).wrapping_add(other.0.wrapping_mul(ODD)))
    }
}

impl LimitId {
    /// The identity of the limit with this name.
    pub fn of(name: &str) -> LimitId {
        let digest = Sha256::digest(name.as_bytes());
        let mut eight = [0; 8];
        eight.copy_from_slice(&digest[..8]);
        LimitId(u64::from_be_bytes(eight))
    }
}

fn first_half(digest: &[u8]) -> u128 {
    let mut sixteen = [0; 16];
    sixteen.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(sixteen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_two_kinds_are_two_subjects_and_stay_what_they_are() {
        assert_ne!(SubjectKey::of(SubjectKind::Key, "a"), SubjectKey::of(SubjectKind::Tenant, "a"));
        // Pinned: state on disk is keyed by these.
        assert_eq!(SubjectKey::of(SubjectKind::Key, "a").0 >> 96, 0x44c3_38b5);
    }

    #[test]
    fn an_ipv6_host_cannot_leave_its_prefix() {
        let of = |text| SubjectKey::of_address(address(text), 64);
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn a_neighbourhood_is_no_single_address() {
        let crowd = SubjectKey::of_neighbourhood(address("10.0.0.7"));
        assert_eq!(crowd, SubjectKey::of_neighbourhood(address("10.0.0.9")));
        assert_ne!(crowd, SubjectKey::of_address(address("10.0.0.0"), 64));
    }
}
