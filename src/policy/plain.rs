//! Whether a text is plain: has nothing in it that could be read two ways. Nearly all are, and that is told sixteen bytes at a
//! time, without an end at the first that is not: a path of twenty bytes takes a third of the instructions of a look at
//! each, and no branch is guessed wrong at its end.

#![expect(
    clippy::needless_bitwise_bool,
    reason = "a lazy operator is a branch, and one lane of sixteen cannot take it"
)]

/// Bytes that are looked at together.
const LANES: usize = 16;

/// Whether all bytes of `text` are `fine`.
#[inline]
fn all(text: &[u8], fine: impl Fn(u8) -> bool) -> bool {
    let all_of = |bytes: &[u8]| bytes.iter().fold(true, |all, byte| all & fine(*byte));
    if let Some(last) = text.last_chunk::<LANES>() {
        return text.as_chunks::<LANES>().0.iter().all(|lanes| all_of(lanes)) && all_of(last);
    }
    // A short one by two pieces that may overlap: to lay it beside a filler is to write and to read again, which takes longer.
    if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        return all_of(first) & all_of(last);
    }
    match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(first), Some(last)) => all_of(first) & all_of(last),
        _ => text.iter().all(|byte| fine(*byte)),
    }
}

/// A text that is shorter than `N`, with the filler behind it.
#[inline]
fn padded<const N: usize>(text: &[u8], filler: u8) -> [u8; N] {
    let mut padded = [filler; N];
    if let Some(start) = padded.get_mut(..text.len()) {
        start.copy_from_slice(text);
    }
    padded
}

#[inline]
fn is_in(byte: u8, first: u8, last: u8) -> bool {
    byte.wrapping_sub(first) <= last - first
}

/// Whether a path begins with a slash and has nothing in it that could make two readings: no empty segment but the last,
/// none that starts with a dot, and no character that is ever encoded or cut at.
pub(super) fn is_plain_path(path: &[u8]) -> bool {
    // A byte by what stands before it.
    let pairs_of = |bytes: &[u8; LANES + 1]| {
        let mut fine = true;
        for at in 0..LANES {
            let (before, byte) = (bytes[at], bytes[at + 1]);
            // From the hyphen to the nine: dot, slash and digits.
            let known = is_in(byte | 0x20, b'a', b'z') | is_in(byte, b'-', b'9') | (byte == b'_');
            fine &= known & !((before == b'/') & ((byte == b'/') | (byte == b'.')));
        }
        fine
    };
    let whole = |window: &[u8]| window.first_chunk().is_some_and(pairs_of);
    path.first() == Some(&b'/')
        && match path.last_chunk() {
            Some(last) => path.windows(LANES + 1).step_by(LANES).all(whole) && pairs_of(last),
            None => pairs_of(&padded(path, b'a')),
        }
}

/// Whether a host is a name or an IPv4 address in lower case, perhaps with a port.
pub(super) fn is_plain_host(host: &[u8]) -> bool {
    const LONGEST_PORT: usize = 5;
    let tail = host.len().saturating_sub(LONGEST_PORT + 1);
    let colon = host[tail..].iter().position(|byte| *byte == b':').map(|at| tail + at);
    let (name, port) = colon.map_or((host, &b"80"[..]), |at| (&host[..at], &host[at + 1..]));
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    let fine = |byte| is_in(byte, b'a', b'z') | (is_in(byte, b'-', b'9') & (byte != b'/'));
    is_port && !name.is_empty() && all(name, fine)
}

/// Whether a text is printable ASCII without a space.
pub(super) fn is_plain_word(word: &[u8]) -> bool {
    all(word, |byte| is_in(byte, 0x21, 0x7e))
}

/// Whether a query has printable characters only, none of them encoded and none that must be.
pub(super) fn is_plain_query(query: &[u8]) -> bool {
    all(query, |byte| {
        is_in(byte, 0x21, 0x7e)
            & (byte != b'%')
            & (byte != b'#')
            & (byte != b'"')
            & (byte != b'<')
            & (byte != b'>')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of texts of these lengths, otherwise of plain ones.
    fn each(plain: &[u8], mut look: impl FnMut(&[u8])) {
        for length in 0..=plain.len() {
            let mut text = plain[..length].to_vec();
            look(&text);
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let before = std::mem::replace(&mut text[at], byte);
                    look(&text);
                    text[at] = before;
                }
            }
        }
    }

    #[test]
    fn a_path_is_plain_if_each_of_its_segments_is() {
        let is_known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        each(b"/ab/cd-1/e_f/.../gh.ij/klmnopqr/stu/vw/", |path| {
            let plain = path.strip_prefix(b"/").is_some_and(|below| {
                let segments: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
                let inner = &segments[..segments.len() - 1];
                inner.iter().all(|segment| !segment.is_empty())
                    && segments.iter().all(|segment| segment.first() != Some(&b'.'))
                    && segments.iter().all(|segment| segment.iter().all(is_known))
            });
            assert_eq!(is_plain_path(path), plain, "{path:?}");
        });
    }

    #[test]
    fn a_host_is_plain_with_a_port_of_up_to_five_digits_and_without() {
        let is_known =
            |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(byte);
        for text in [&b"api-1.example.com:12345"[..], b"127.0.0.1:80", b"a:123456", b"12345678"] {
            each(text, |host| {
                let mut parts = host.splitn(2, |byte| *byte == b':');
                let (name, port) = (parts.next().unwrap_or_default(), parts.next());
                let plain = !name.is_empty()
                    && name.iter().all(is_known)
                    && port.is_none_or(|port| {
                        (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit)
                    });
                assert_eq!(is_plain_host(host), plain, "{host:?}");
            });
        }
    }

    #[test]
    fn a_word_is_plain_if_each_of_its_bytes_is_printable() {
        each(b"sk_live_0123456789abcdefghijklmnopq", |word| {
            assert_eq!(is_plain_word(word), word.iter().all(u8::is_ascii_graphic), "{word:?}");
        });
    }

    #[test]
    fn a_query_is_plain_without_encoding_and_without_what_must_be_encoded() {
        each(b"a=b&c=d+e;f[]=~!*'(),/?:@$|{}", |query| {
            let is_known = |byte: &u8| byte.is_ascii_graphic() && !b"%#\"<>".contains(byte);
            assert_eq!(is_plain_query(query), query.iter().all(is_known), "{query:?}");
        });
    }
}
