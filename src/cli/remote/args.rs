//! What can be typed of the commands that talk to a running gate.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where the running gate is, and what it knows us by.
#[derive(Debug, Args)]
pub(in crate::cli) struct At {
    /// The admin listener of the running gate.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901", value_parser = admin_url)]
    pub(in crate::cli) admin: String,
    #[command(flatten)]
    pub(in crate::cli) token: Token,
}

/// The token, which never stands on a command line, where everybody on the host could read it.
#[derive(Debug, Args)]
pub(in crate::cli) struct Token {
    /// The file that holds the admin token; without it, the variable `TOLLGATE_ADMIN_TOKEN` is used if it is set.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) token_file: Option<PathBuf>,
}

/// Whose meter is meant.
#[derive(Debug, Args)]
pub(in crate::cli) struct Whose {
    /// The key with this id.
    #[arg(long, value_name = "ID", conflicts_with_all = ["tenant", "plan"])]
    pub(in crate::cli) key: Option<String>,
    /// This tenant.
    #[arg(long, value_name = "TENANT", conflicts_with = "plan")]
    pub(in crate::cli) tenant: Option<String>,
    /// This plan.
    #[arg(long, value_name = "PLAN")]
    pub(in crate::cli) plan: Option<String>,
    /// On this route, for limits that count routes apart.
    #[arg(long, value_name = "ROUTE")]
    pub(in crate::cli) route: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A limit alone is listed for everyone whom it counts. Money is printed as exact decimals.

Examples:
  tollgate usage --tenant acme
  tollgate usage --key acme-live --limit throttle
  tollgate usage --limit wallet --csv > balances.csv
  tollgate usage --admin http://10.0.0.5:9901 --token-file ./admin.token --tenant acme --json")]
pub(in crate::cli) struct Usage {
    #[command(flatten)]
    pub(in crate::cli) at: At,
    #[command(flatten)]
    pub(in crate::cli) whose: Whose,
    /// This client address, for limits that count addresses.
    #[arg(long, value_name = "IP")]
    pub(in crate::cli) address: Option<String>,
    /// Only this limit.
    #[arg(long, value_name = "LIMIT")]
    pub(in crate::cli) limit: Option<String>,
    /// As one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// As CSV, for bills.
    #[arg(long, conflicts_with = "json")]
    pub(in crate::cli) csv: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Credit {
    #[command(subcommand)]
    pub(in crate::cli) command: CreditCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CreditCommand {
    /// Add to a balance; it is durable when this command returns.
    Add(Add),
}

#[derive(Debug, Args)]
#[command(after_help = "\
With --once NAME the same command can be given again after a failure: the amount is added once.

Examples:
  tollgate credit add --limit wallet --tenant acme 10.50
  tollgate credit add --limit wallet --tenant acme 250 --once invoice-2026-118 --note 'paid by card'")]
pub(in crate::cli) struct Add {
    #[command(flatten)]
    pub(in crate::cli) at: At,
    /// The `credit` limit.
    #[arg(long, value_name = "LIMIT")]
    pub(in crate::cli) limit: String,
    #[command(flatten)]
    pub(in crate::cli) whose: Whose,
    /// How much, as a decimal with at most six places.
    #[arg(value_name = "AMOUNT")]
    pub(in crate::cli) amount: String,
    /// The name of this act: a repeat of it does nothing and prints the first one's answer.
    #[arg(long, value_name = "NAME", value_parser = act_name)]
    pub(in crate::cli) once: Option<String>,
    /// The reason, for those who read the log later.
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) note: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Takes back what `keys revoke --admin` or a rule of `auto_revoke` did. A key that its file revokes is
restored by a change of that file alone.

Examples:
  tollgate keys restore acme-live
  tollgate keys restore --admin http://10.0.0.5:9901 --token-file ./admin.token acme-live")]
pub(in crate::cli) struct Restore {
    #[command(flatten)]
    pub(in crate::cli) at: At,
    /// The key's public id.
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: String,
    /// The reason, for those who read the log later.
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) note: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A request whose outcome nobody knows stays charged, and its Idempotency-Key stays taken. Find out
from the backend what became of it, by the request id; then confirm what was processed and release
what was not. A charge and the record of the same request are settled together.

Examples:
  tollgate reservations list
  tollgate reservations confirm 0000019b3c2f8a51c0ffee0000000007
  tollgate reservations release --record 5f0c4c1f6d6a4b8e9d0e1f2a3b4c5d6e")]
pub(in crate::cli) struct Reservations {
    #[command(subcommand)]
    pub(in crate::cli) command: ReservationsCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ReservationsCommand {
    /// List what is charged or taken and has no known outcome, oldest first.
    List(ListDoubts),
    /// It was processed: the charge stands; a record says done and not replayable.
    Confirm(Settle),
    /// It was not processed: the charge goes back; the next request with the key of a record is a fresh one.
    Release(Settle),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListDoubts {
    #[command(flatten)]
    pub(in crate::cli) at: At,
    /// As one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Settle {
    #[command(flatten)]
    pub(in crate::cli) at: At,
    /// The id that the list shows.
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: String,
    /// The id is that of an idempotency record, not of a reservation.
    #[arg(long)]
    pub(in crate::cli) record: bool,
    /// What was found out, for those who read the log later.
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) note: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// A URL of the admin listener: plain HTTP, a host and a port, nothing behind them.
pub(in crate::cli) fn admin_url(text: &str) -> Result<String, String> {
    let wrong = || "expected http://HOST:PORT, such as http://127.0.0.1:9901".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let plain = uri.scheme_str() == Some("http") && uri.query().is_none() && uri.path() == "/";
    let authority = uri.authority().ok_or_else(wrong)?;
    let named = !authority.host().is_empty() && !authority.as_str().contains('@');
    if plain && named { Ok(authority.to_string()) } else { Err(wrong()) }
}

/// The name of an act, which travels as an `Idempotency-Key`.
fn act_name(text: &str) -> Result<String, String> {
    let sendable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if (1..=255).contains(&text.len()) && sendable {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 255 printable ASCII characters, such as invoice-7".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_url_is_plain_http_with_a_host_and_nothing_behind_it() {
        assert_eq!(admin_url("http://127.0.0.1:9901").as_deref(), Ok("127.0.0.1:9901"));
        assert_eq!(admin_url("http://[::1]:9901/").as_deref(), Ok("[::1]:9901"));
        for wrong in
            ["https://a:1", "127.0.0.1:9901", "http://a/v1", "http://u@a", "http://a?x", ""]
        {
            assert!(admin_url(wrong).is_err(), "{wrong}");
        }
    }
}
