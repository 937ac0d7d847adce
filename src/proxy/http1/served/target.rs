//! What a request asks for (RFC 9112 §3.2), taken apart: four forms, and nothing that is none of them.

use http::Method;
use http::uri::Authority;

use crate::policy::head::Target;

/// What a byte may be in a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Fine,
    Query,
    Wrong,
}

/// Which bytes may stand in a path. A fragment is never sent, and what is not ASCII is sent encoded (RFC 3986 §2). Quotes
/// and braces are none of a path's either, but senders of JSON leave them as they are.
const IN_PATH: [Class; 256] = {
    let mut table = [Class::Wrong; 256];
    let mut byte = 0_u8;
    while byte < 0x7f {
        table[byte as usize] = match byte {
            b'?' => Class::Query,
            b'!' | b'"' | b'$'..=b';' | b'=' | b'@'..=b'_' | b'a'..=b'z' | b'{'..=b'~' => {
                Class::Fine
            }
            _ => Class::Wrong,
        };
        byte += 1;
    }
    table
};

/// Which bytes may stand in a query.
const IN_QUERY: [Class; 256] = {
    let mut table = [Class::Wrong; 256];
    let mut byte = 0_u8;
    while byte < 0x7f {
        table[byte as usize] = match byte {
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'~' => Class::Fine,
            _ => Class::Wrong,
        };
        byte += 1;
    }
    table
};

/// Takes a request's target apart; `None` where it is no target of that method.
pub(super) fn of<'a>(method: &Method, text: &'a str) -> Option<Target<'a>> {
    if text.starts_with('/') && *method != Method::CONNECT {
        return origin(text);
    }
    other(method, text)
}

fn origin(text: &str) -> Option<Target<'_>> {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| IN_PATH[usize::from(*byte)] == Class::Fine;
    let end = bytes.iter().position(|byte| !plain(byte)).unwrap_or(bytes.len());
    if end == bytes.len() {
        return Some(Target { authority: None, path: text, query: None });
    }
    let (path, rest) = text.split_at_checked(end)?;
    let query = rest.strip_prefix('?')?;
    let fine = query.bytes().all(|byte| IN_QUERY[usize::from(byte)] == Class::Fine);
    fine.then_some(Target { authority: None, path, query: Some(query) })
}

/// The forms that hardly anybody sends to a gateway.
#[cold]
fn other<'a>(method: &Method, text: &'a str) -> Option<Target<'a>> {
    let named = |authority: &'a str| {
        let valid = !authority.is_empty() && Authority::try_from(authority).is_ok();
        valid.then_some(authority)
    };
    if *method == Method::CONNECT {
        return Some(Target { authority: Some(named(text)?), path: "", query: None });
    }
    if text == "*" {
        let asked = *method == Method::OPTIONS;
        return asked.then_some(Target { authority: None, path: text, query: None });
    }
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end)?;
    let authority = Some(named(authority)?);
    if rest.starts_with('/') {
        return Some(Target { authority, ..origin(rest)? });
    }
    // Without a path it is the root's (RFC 9110 §4.2.3).
    let query = rest.strip_prefix('?');
    let fine = rest.bytes().all(|byte| IN_QUERY[usize::from(byte)] == Class::Fine);
    fine.then_some(Target { authority, path: "/", query })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(
        method: &Method,
        text: &'static str,
    ) -> Option<(Option<&'static str>, &'static str, Option<&'static str>)> {
        of(method, text).map(|Target { authority, path, query }| (authority, path, query))
    }

    #[test]
    fn each_form_is_taken_apart_where_its_method_has_it() {
        let get = &Method::GET;
        assert_eq!(parts(get, "/"), Some((None, "/", None)));
        assert_eq!(parts(get, "/a/b?c=d?e"), Some((None, "/a/b", Some("c=d?e"))));
        assert_eq!(parts(get, "/a?"), Some((None, "/a", Some(""))));
        assert_eq!(parts(get, "//a"), Some((None, "//a", None)));
        assert_eq!(parts(get, "http://a:8/b?c"), Some((Some("a:8"), "/b", Some("c"))));
        assert_eq!(parts(get, "http://a"), Some((Some("a"), "/", None)));
        assert_eq!(parts(get, "http://a?c"), Some((Some("a"), "/", Some("c"))));
        assert_eq!(parts(get, "http://u@a/"), Some((Some("u@a"), "/", None)));
        assert_eq!(parts(&Method::OPTIONS, "*"), Some((None, "*", None)));
        assert_eq!(parts(&Method::CONNECT, "a:80"), Some((Some("a:80"), "", None)));
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        for text in [
            "",
            "*",
            "a",
            "a/b",
            "a:80",
            "\\a",
            "?a",
            "#a",
            "/a#b",
            "/a?b#c",
            "/\u{e9}",
            "/a?\u{e9}",
            "/a\u{7f}",
            "/a<b",
            "/a>b",
            "/a?b<c",
            "/a^?\"",
            "http://",
            "http:///a",
            "http://a b/",
            "1http://a/",
            "://a/",
            "http://a/#b",
            "http://a?\"",
            "/`",
        ] {
            assert_eq!(parts(&Method::GET, text), None, "{text:?}");
        }
        assert_eq!(parts(&Method::CONNECT, "/a"), None);
        assert_eq!(parts(&Method::CONNECT, "a:80/b"), None);
    }
}
