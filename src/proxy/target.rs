//! Step 9's target: the path that was matched, byte for byte, and the query without what a client may not say in it.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery, Uri};

use crate::policy::credential::Place;
use crate::policy::head::{may_be_read_as, readings};
use crate::policy::refusal::{Refusal, Refused};
use crate::policy::snapshot::{Scheme, Snapshot, Upstream};

/// What the backend is asked for.
pub(super) struct Forwarded<'a> {
    /// The path.
    pub(super) path: Cow<'a, str>,
    /// The query without its `?`.
    pub(super) query: Option<Cow<'a, str>>,
}

/// The path and query that the backend is asked for. The path is the one that was matched, byte for byte.
pub(super) fn target<'a>(
    path: &'a str,
    query: Option<&'a str>,
    policy: &Snapshot,
) -> Forwarded<'a> {
    let upstream = &*policy.upstream;
    let query_credential =
        policy.credentials.places.iter().any(|place| matches!(place, Place::Query(_)));
    let changes = !upstream.base_path.is_empty()
        || !upstream.remove_query.is_empty()
        || !upstream.set_query.is_empty()
        || (query_credential && query.is_some());
    if !changes {
        return Forwarded { path: path.into(), query: query.map(Cow::Borrowed) };
    }
    let given = query.unwrap_or("");
    let kept = given.split('&').filter(|pair| !pair.is_empty() && may_stay(pair, policy));
    let mut pairs = kept.chain(upstream.set_query.iter().map(|pair| &**pair));
    let query = pairs.next().map(|first| {
        let mut text = first.to_owned();
        for pair in pairs {
            text.push('&');
            text.push_str(pair);
        }
        text.into()
    });
    Forwarded { path: format!("{}{path}", upstream.base_path).into(), query }
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
    target: &Forwarded<'_>,
    upstream: &Upstream,
    authority: &[u8],
) -> Result<Uri, Refused> {
    let scheme = match upstream.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let text = match &target.query {
        Some(query) => format!("{}?{query}", target.path),
        None => target.path.to_string(),
    };
    let target = PathAndQuery::try_from(text)
        .map_err(|_| Refused::because(Refusal::BadRequest, "a target that cannot be forwarded"))?;
    let refused = || Refused::because(Refusal::BadRequest, "an authority that cannot be forwarded");
    let authority = Authority::try_from(authority).map_err(|_| refused())?;
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|_| refused())
}
