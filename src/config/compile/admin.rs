//! `admin:` → where the admin listener is and who may use it.

use std::net::SocketAddr;

use super::super::defaults;
use super::super::problem::{At, Span};
use super::super::raw::{self, Or, Secret};
use super::super::read::FromText;
use super::Desk;
use crate::policy::keys::SecretDigest;
use crate::policy::snapshot::AdminListener;

/// Shorter tokens are guessed.
const SHORTEST_TOKEN: usize = 16;

pub(super) fn admin(
    admin: Option<Or<String, raw::Admin>>,
    flag: Option<&str>,
    desk: &mut Desk<'_>,
) -> Option<AdminListener> {
    let (written, token, at) = match admin {
        None => (None, None, None),
        Some(Or::One(text)) => (Some(address(&text, desk)), None, Some(text.at)),
        Some(Or::Map(raw::Admin { at, listen, token })) => {
            let token = token.and_then(|token| self::token(token, desk));
            (listen.map(|listen| Some(listen.value)), token, Some(at))
        }
    };
    // The flag moves the listener; its token stays what the file says.
    let address = match flag {
        Some(flag) => parse(flag).unwrap_or_else(|_| {
            desk.flag_error(format!("--admin {flag}: expected an address with a port, or `none`"));
            None
        }),
        None => written.unwrap_or_else(|| defaults::ADMIN.parse().ok()),
    }?;
    if !address.ip().is_loopback() && token.is_none() {
        tell_of_strangers(at, address, desk);
    }
    Some(AdminListener { address, token })
}

fn tell_of_strangers(at: Option<Span>, address: SocketAddr, desk: &mut Desk<'_>) {
    let message = format!("{address} is no loopback address, so without a token /v1 answers 403");
    match at {
        Some(at) => desk.findings.warn(
            at,
            message,
            format!("write {{ listen: {address}, token: {{ env: TOLLGATE_ADMIN_TOKEN }} }}"),
        ),
        None => desk.notes.push(format!("admin: {message}")),
    }
}

fn parse(text: &str) -> Result<Option<SocketAddr>, super::super::read::Complaint> {
    match text {
        "none" => Ok(None),
        address => SocketAddr::from_text(address).map(Some),
    }
}

fn address(text: &At<String>, desk: &mut Desk<'_>) -> Option<SocketAddr> {
    parse(&text.value).unwrap_or_else(|complaint| {
        desk.findings.error_with(
            text.at,
            format!(
                "expected an address with a port such as {}, or `none`, found `{}`",
                defaults::ADMIN,
                text.value
            ),
            complaint.remedy,
        );
        None
    })
}

/// Only its digest goes on. A token that cannot be sent in a header, or guessed at leisure, is none.
fn token(place: raw::SecretPlace, desk: &mut Desk<'_>) -> Option<SecretDigest> {
    let at = place.at;
    let token = desk.secret(&Secret::Map(place))?;
    if token.is_empty() {
        // Away from its host a policy is checked without its secrets, and that was told already.
        if !desk.is_offline() {
            desk.findings.error_with(
                at,
                "the token is empty",
                "make one: `openssl rand -hex 32`".to_owned(),
            );
        }
        return None;
    }
    if token.iter().any(|byte| !byte.is_ascii_graphic()) {
        desk.findings.error_with(
            at,
            "a token is one word of visible ASCII",
            "make one: `openssl rand -hex 32`".to_owned(),
        );
        return None;
    }
    if token.len() < SHORTEST_TOKEN {
        desk.findings.warn(
            at,
            format!("a token of {} characters can be guessed", token.len()),
            "make one: `openssl rand -hex 32`".to_owned(),
        );
    }
    Some(SecretDigest::sha256(&token))
}
