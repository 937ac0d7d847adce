//! Which secrets a digest may be among, told by its first bits before any secret is read.

use super::{PIECE, Secret, SecretDigest, SecretIx};

/// Where in the sorted secrets those begin whose digests start with the same bits. Digests are uniform, so that there is at
/// most a quarter of a secret at a place on average, and nobody can choose them without inverting SHA-256. So the first secret is
/// nearly always the one that is looked for, and the processor goes on as if it were while it is still on its way from
/// memory. A byte a place: the directory of a million keys stays near the processor.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Of every [`STRIDE`] places the first: where its secrets begin. At the end, where the last one's end.
    begins: Box<[u32]>,
    /// How far behind that every place's secrets begin; where that is more than a byte says, they begin later than this.
    behind: Box<[u8]>,
    /// Bits of a digest's first eight bytes that are no part of its place.
    shift: u32,
}

/// Places that count from one beginning: few enough for their secrets to be counted in a byte.
const STRIDE: usize = 256;
/// By how many bits there are more places than secrets.
const ROOMY: u32 = 2;

impl Directory {
    /// The directory of secrets, of which there are fewer than 2³², ascending by digest.
    pub(super) fn of(secrets: &[Secret], between: &dyn Fn()) -> Directory {
        let bits = secrets.len().next_power_of_two().trailing_zeros() + ROOMY;
        let mut directory = Directory { shift: u64::BITS - bits, ..Directory::default() };
        let (mut begins, mut behind) = (Vec::new(), Vec::with_capacity(1 << bits));
        let (mut first, mut at) = (0, 0);
        for place in 0..1usize << bits {
            if place.is_multiple_of(PIECE) {
                between();
            }
            if place.is_multiple_of(STRIDE) {
                first = at;
                begins.push(u32::try_from(first).unwrap_or(u32::MAX));
            }
            behind.push(u8::try_from(at - first).unwrap_or(u8::MAX));
            let is_here = |secret: &Secret| directory.place_of(&secret.digest) == place;
            while secrets.get(at).is_some_and(is_here) {
                at += 1;
            }
        }
        begins.push(u32::try_from(at).unwrap_or(u32::MAX));
        (directory.begins, directory.behind) = (begins.into(), behind.into());
        directory
    }

    /// Where the secrets with this digest's first bits begin, or something before that.
    pub(super) fn begin_of(&self, digest: &SecretDigest) -> Option<usize> {
        let place = self.place_of(digest);
        let (begin, behind) = (self.begins.get(place / STRIDE)?, self.behind.get(place)?);
        Some(*begin as usize + usize::from(*behind))
    }

    /// Where the secrets with this digest's first bits begin if digests are spread evenly: of a stride's 64 secrets, one in
    /// twenty is more than seven from there.
    pub(super) fn about(&self, digest: &SecretDigest) -> Option<SecretIx> {
        let place = self.place_of(digest);
        let (begin, end) = (self.begins.get(place / STRIDE)?, self.begins.get(place / STRIDE + 1)?);
        let within = u64::try_from(place % STRIDE).ok()?;
        let before = u64::from(end - begin) * within / STRIDE as u64;
        Some(SecretIx(begin + u32::try_from(before).ok()?))
    }

    fn place_of(&self, digest: &SecretDigest) -> usize {
        let first = digest.first().checked_shr(self.shift).unwrap_or(0);
        usize::try_from(first).unwrap_or(usize::MAX)
    }
}
