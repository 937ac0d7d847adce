//! What can be typed. The texts here are the manual: `--help` teaches.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::remote::args as remote;
use super::when::{When, duration, when};
use crate::config::upstream_complaint;

/// A policy gate in front of an HTTP API: keys, scopes, allowlists and rate limits, from one YAML file.
#[derive(Debug, Parser)]
#[command(
    name = "tollgate",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Examples:
  tollgate demo                                     a gate, a backend and keys to play with
  tollgate check tollgate.yaml                      every problem of a policy at once
  tollgate run --config tollgate.yaml               put the gate in front of its upstream
  tollgate keys new --config tollgate.yaml --tenant acme
  tollgate usage --tenant acme                      what a running gate has counted

Exit codes: 0 done; 1 a problem in what it was given; 2 wrong usage; 3 cannot run here (port taken,
file read-only, permission); 4 the admin listener is unreachable or refused."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Put the gate in front of its upstream, until it is told to stop.
    Run(Run),
    /// A gate, a small messaging backend and keys, in one process, with curl lines to paste.
    Demo(Demo),
    /// Tell every problem of a policy, with file, line and remedy.
    Check(Check),
    /// Print what is in force after all overrides, and the line that each value comes from.
    Show(Show),
    /// Make, list, rotate and revoke keys in the key files of a policy.
    Keys(Keys),
    /// Ask a running gate how much is used, and what is left.
    Usage(remote::Usage),
    /// Add credit at a running gate.
    Credit(remote::Credit),
    /// Settle, at a running gate, requests whose outcome nobody knows.
    Reservations(remote::Reservations),
    /// Print the JSON Schema of the policy file, for editors.
    Schema,
    /// Print the version.
    Version(Version),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Signals: SIGHUP reloads now (a changed file is in force within a second anyway); SIGTERM or SIGINT
drains, and a second one ends the process at once.

Examples:
  tollgate run --config tollgate.yaml
  tollgate run --config tollgate.yaml --listen 0.0.0.0:8080 --upstream http://127.0.0.1:9000")]
pub(super) struct Run {
    /// The policy.
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Listen here instead of where the policy says.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(super) listen: Option<SocketAddr>,
    /// Forward there instead of where the policy says.
    #[arg(long, value_name = "URL", value_parser = upstream)]
    pub(super) upstream: Option<String>,
    /// The admin listener's address, or `none`.
    #[arg(long, value_name = "ADDR|none", value_parser = address_or_none)]
    pub(super) admin: Option<String>,
    /// Where counters live: `memory`, or a directory.
    #[arg(long, value_name = "memory|DIR")]
    pub(super) state: Option<String>,
    /// How the gate's own log is written, on standard error.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(super) log: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Listen here; by default 127.0.0.1:8080, or any free port of loopback if that is taken.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(super) listen: Option<SocketAddr>,
    /// End by itself after this long.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) exit_after: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tollgate check tollgate.yaml
  tollgate check --deny-warnings --offline --format github policies/*.yaml
  cat tollgate.yaml | tollgate check -")]
pub(super) struct Check {
    /// The policies; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// How to print the problems.
    #[arg(long, value_enum, default_value_t = CheckFormat::Human)]
    pub(super) format: CheckFormat,
    /// Exit 1 on warnings too.
    #[arg(long)]
    pub(super) deny_warnings: bool,
    /// Secrets that are not here (files, environment) are warnings: for CI, which has none.
    #[arg(long)]
    pub(super) offline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckFormat {
    /// The line, a caret, and a remedy.
    Human,
    /// One JSON object.
    Json,
    /// Annotations of GitHub Actions.
    Github,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tollgate show tollgate.yaml
  tollgate show tollgate.yaml --key acme-live
  tollgate show tollgate.yaml --route sms-send")]
pub(super) struct Show {
    /// The policy.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Only what is in force for the key with this id.
    #[arg(long, value_name = "ID", group = "one")]
    pub(super) key: Option<String>,
    /// Only what is in force for this tenant.
    #[arg(long, value_name = "TENANT", group = "one")]
    pub(super) tenant: Option<String>,
    /// Only this route.
    #[arg(long, value_name = "ROUTE", group = "one")]
    pub(super) route: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Version {
    /// As one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A key file holds digests, never secrets. It is rewritten whole or not at all, with its comments, its
owner and its mode kept; a running gate follows within a second.")]
pub(super) struct Keys {
    #[command(subcommand)]
    pub(super) command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key; its secret is printed alone on one line of standard output, this once.
    New(Box<New>),
    /// Revoke a key, in its file for good or at a running gate until it is restored.
    Revoke(Revoke),
    /// Take back, at a running gate, what a person or a rule revoked there.
    Restore(remote::Restore),
    /// Give a key another secret; its id, its tenant and what it has used stay.
    Rotate(Rotate),
    /// List the keys; never a secret or a digest.
    List(List),
    /// Read a secret from standard input and print what a key file holds of it, to import a key.
    Digest(Digest),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tollgate keys new --config tollgate.yaml --tenant acme
  SECRET=$(tollgate keys new --config tollgate.yaml --tenant acme --scope sms:send --expires 365d)
  tollgate keys new --config tollgate.yaml --tenant acme --allow 203.0.113.0/24
  tollgate keys new --config tollgate.yaml --tenant acme --limit throttle=600/minute
  tollgate keys new --config tollgate.yaml --tenant acme --secret-file ./acme.secret")]
pub(super) struct New {
    /// The policy whose key file takes the key.
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Whose key it is.
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: String,
    /// Its public id; made up if not given.
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<String>,
    /// What it may do; give it once for each scope. Without any, the policy's `new_keys` decides.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(super) scopes: Vec<String>,
    /// Its plan, where it differs from its tenant's.
    #[arg(long, value_name = "PLAN")]
    pub(super) plan: Option<String>,
    /// A note for people.
    #[arg(long, value_name = "TEXT")]
    pub(super) label: Option<String>,
    /// Valid until: 2027-01-01, 2027-01-01T12:00:00Z, 30d, 12h, or `never`.
    #[arg(long, value_name = "TIME|DURATION", value_parser = when)]
    pub(super) expires: Option<When>,
    /// Valid from, in the same forms.
    #[arg(long, value_name = "TIME|DURATION", value_parser = when)]
    pub(super) not_before: Option<When>,
    /// A network that it may be used from; may be given several times.
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub(super) allow: Vec<IpNet>,
    /// A limit of its own, such as throttle=600/minute; may be given several times.
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) limits: Vec<(String, String)>,
    /// Which of the policy's prefixes the secret starts with; the first by default.
    #[arg(long, value_name = "PREFIX")]
    pub(super) prefix: Option<String>,
    /// The key file, where the policy names several.
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Print one JSON object instead of the bare secret.
    #[arg(long)]
    pub(super) json: bool,
    /// Write the secret to this new file (mode 0600) and not to standard output.
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tollgate keys revoke --config tollgate.yaml acme-live --why 'found in a public repository'
  tollgate keys revoke --admin http://127.0.0.1:9901 acme-live

At a gate it is in force at once, and a read-only key file does not matter.")]
#[command(group = clap::ArgGroup::new("where").required(true).args(["config", "admin"]))]
pub(super) struct Revoke {
    /// The policy whose key files hold the key.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The admin listener of a running gate, which revokes the key over its file.
    #[arg(long, value_name = "URL", value_parser = remote::admin_url, conflicts_with = "file")]
    pub(super) admin: Option<String>,
    #[command(flatten)]
    pub(super) token: remote::Token,
    /// The key's public id.
    #[arg(value_name = "ID")]
    pub(super) id: String,
    /// The reason, for those who read the file later.
    #[arg(long, value_name = "TEXT")]
    pub(super) why: Option<String>,
    /// The key file; with it, a key can be revoked although the policy cannot be loaded here.
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tollgate keys rotate --config tollgate.yaml acme-live                    the old secret stops now
  tollgate keys rotate --config tollgate.yaml acme-live --overlap 24h      both are good for a day")]
pub(super) struct Rotate {
    /// The policy whose key files hold the key.
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The key's public id.
    #[arg(value_name = "ID")]
    pub(super) id: String,
    /// How long the old secret stays good.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) overlap: Option<Duration>,
    /// Which of the policy's prefixes the new secret starts with; the first by default.
    #[arg(long, value_name = "PREFIX")]
    pub(super) prefix: Option<String>,
    /// Print one JSON object instead of the bare secret.
    #[arg(long)]
    pub(super) json: bool,
    /// Write the secret to this new file (mode 0600) and not to standard output.
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// The policy whose key files are listed.
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// As a JSON array.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  printf %s \"$OLD_KEY\" | tollgate keys digest --config tollgate.yaml

The two lines printed go into an entry of a key file, below its `id` and `tenant`.")]
pub(super) struct Digest {
    /// The policy whose pepper the digest is made with; without it, plain SHA-256.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address with a port, such as 127.0.0.1:8080".to_owned())
}

fn address_or_none(text: &str) -> Result<String, String> {
    match (text, address(text)) {
        ("none", _) | (_, Ok(_)) => Ok(text.to_owned()),
        (_, Err(why)) => Err(format!("{why}, or `none`")),
    }
}

fn upstream(text: &str) -> Result<String, String> {
    match upstream_complaint(text) {
        None => Ok(text.to_owned()),
        Some(why) => Err(format!("{why}; write http://host:port or https://host")),
    }
}

/// A network; an address alone is the network of this one host.
fn network(text: &str) -> Result<IpNet, String> {
    let network =
        text.parse::<IpNet>().or_else(|_| text.parse().map(|host: std::net::IpAddr| host.into()));
    network.map(|network| network.trunc()).map_err(|_| {
        "expected a network such as 203.0.113.0/24 or 2001:db8::/32, or an address".to_owned()
    })
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE, such as throttle=600/minute".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_address_is_a_network_and_host_bits_are_dropped() {
        assert_eq!(network("203.0.113.7").unwrap().to_string(), "203.0.113.7/32");
        assert_eq!(network("203.0.113.7/24").unwrap().to_string(), "203.0.113.0/24");
        assert!(network("example.org").is_err());
    }
}
