//! Step 9's target: the path that was matched, byte for byte, and the query without what a client may not say in it.

use std::borrow::Cow;

use http::HeaderValue;
use http::uri::{Authority, PathAndQuery, Uri};

use crate::policy::credential::Place;
use crate::policy::head::{may_be_read_as, readings};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{Scheme, Snapshot, Upstream};

/// The path and query that the backend is asked for. The path is the one that was matched, byte for byte.
pub(super) fn target<'a>(
    uri: &'a Uri,
    policy: &Snapshot,
) -> Result<Cow<'a, PathAndQuery>, Refused> {
    let upstream = &*policy.upstream;
    let query_credential =
        policy.credentials.places.iter().any(|place| matches!(place, Place::Query(_)));
    let given = uri
        .path_and_query()
        .map_or_else(|| Cow::Owned(PathAndQuery::from_static("/")), Cow::Borrowed);
    let changes = !upstream.base_path.is_empty()
        || !upstream.remove_query.is_empty()
        || !upstream.set_query.is_empty()
        || (query_credential && uri.query().is_some());
    if !changes {
        return Ok(given);
    }
    let mut text = format!("{}{}", upstream.base_path, given.path());
    let kept = uri
        .query()
        .unwrap_or("")
        .split('&')
        .filter(|pair| !pair.is_empty() && may_stay(pair, policy));
    let mut separator = '?';
    for pair in kept.chain(upstream.set_query.iter().map(|pair| &**pair)) {
        text.push(separator);
        text.push_str(pair);
        separator = '&';
    }
    PathAndQuery::try_from(text)
        .map(Cow::Owned)
        .map_err(|_| Refused::because(Refusal::BadRequest, "a target that cannot be forwarded"))
}

/// Whether the client's parameter may reach the backend. Names are compared decoded, without case and without what no
/// name has in it, in every way in which a backend may cut the query, because it is not known how this one does.
fn may_stay(part: &str, policy: &Snapshot) -> bool {
    readings(part).all(|(name, _)| {
        let bare: Vec<u8> = name.iter().copied().filter(u8::is_ascii_graphic).collect();
        let removed = policy.upstream.remove_query.iter().any(|gone| may_be_read_as(&bare, gone));
        let credential = policy
            .credentials
            .places
            .iter()
            .any(|place| matches!(place, Place::Query(place) if may_be_read_as(&name, place)));
        !removed && !credential
    })
}

/// The same in absolute form, as HTTP/2 has it.
pub(super) fn absolute(
    target: PathAndQuery,
    upstream: &Upstream,
    authority: &HeaderValue,
) -> Result<Uri, Refused> {
    let scheme = match upstream.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let refused = || Refused::because(Refusal::BadRequest, "an authority that cannot be forwarded");
    let authority = Authority::try_from(authority.as_bytes()).map_err(|_| refused())?;
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|_| refused())
}
