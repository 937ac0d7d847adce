//! The making of secrets: `prefix + 30 base62 digits at random + 6 base62 digits of CRC-32`, in the manner of GitHub's
//! tokens. 30 digits hold 178 bits; the checksum lets a scanner or a human tell a typo from a stranger, and vouches for
//! nothing. What a request presents is judged in `policy/credential.rs`.

use std::fmt;

use crate::policy::credential::{Pepper, checksum};
use crate::policy::keys::SecretDigest;

use super::entry::{Digest, DigestKind};

/// Random digits of a secret.
const DIGITS: usize = 30;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A secret, on its way to the one line where it is shown. It prints itself only when asked for by name.
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The operating system has no random numbers to give.
#[derive(Debug)]
pub struct NoRandomness(pub String);

impl fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the operating system gave no random numbers: {}", self.0)
    }
}

impl std::error::Error for NoRandomness {}

impl Secret {
    /// A new secret.
    pub fn new(prefix: &str) -> Result<Secret, NoRandomness> {
        let mut text = prefix.to_owned() + &random_digits(DIGITS)?;
        let sum = checksum(&text);
        text.extend(sum.iter().map(|digit| char::from(*digit)));
        Ok(Secret(text))
    }

    /// A secret that was made elsewhere.
    pub fn imported(text: String) -> Secret {
        Secret(text)
    }

    /// The secret itself, for the one place that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it: HMAC under the pepper, if the policy has one, and SHA-256 otherwise.
    pub fn digest(&self, pepper: Option<&Pepper>) -> Digest {
        let (kind, digest) = match pepper {
            Some(pepper) => (DigestKind::Hmac, SecretDigest::hmac(pepper, self.0.as_bytes())),
            None => (DigestKind::Sha256, SecretDigest::sha256(self.0.as_bytes())),
        };
        let nibbles = digest.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex = nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect();
        // Of a short secret, four characters would be a good part of it.
        let from = self.0.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
        let last4 = if self.0.len() >= 16 { self.0[from..].to_owned() } else { String::new() };
        Digest { kind, hex, last4 }
    }
}

/// A public id for a key that was given none: `key_` and ten digits.
pub fn random_id() -> Result<String, NoRandomness> {
    Ok("key_".to_owned() + &random_digits(10)?)
}

fn random_digits(count: usize) -> Result<String, NoRandomness> {
    let mut out = String::with_capacity(count);
    let mut bytes = [0u8; 64];
    while out.len() < count {
        getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
        // 248 is the largest multiple of 62 in a byte: what lies above would favour the first digits.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let digits = fair.map(|byte| char::from(BASE62[usize::from(byte % 62)]));
        out.extend(digits.take(count - out.len()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::credential::has_checksum;

    #[test]
    fn a_secret_has_its_prefix_its_length_and_a_right_checksum() {
        let secret = Secret::new("sp_live_").unwrap();
        assert!(secret.reveal().starts_with("sp_live_"));
        assert_eq!(secret.reveal().len(), "sp_live_".len() + DIGITS + 6);
        assert!(has_checksum(secret.reveal()));
        assert_ne!(secret.reveal(), Secret::new("sp_live_").unwrap().reveal());
    }

    #[test]
    fn every_digit_is_about_as_frequent_as_every_other() {
        let text = random_digits(62_000).unwrap();
        for digit in BASE62 {
            let seen = text.bytes().filter(|byte| byte == digit).count();
            assert!((800..1200).contains(&seen), "{} {seen}", char::from(*digit));
        }
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("x_").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let digest = secret.digest(None);
        assert_eq!(digest.hex.len(), 64);
        assert!(secret.reveal().ends_with(&digest.last4));
        assert_eq!(Secret::imported("short".to_owned()).digest(None).last4, "");
    }
}
