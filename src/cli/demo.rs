//! `tollgate demo`: a gate, a backend behind it and keys, in one process, and what to type to see them work.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

use listenfd::ListenFd;

use super::args::Demo;
use super::failure::{Code, Failure};
use super::run::{drain, log, start};
use super::signals::{Signals, Wish};
use super::{environment, print};
use crate::clock::Clock;
use crate::config::Overrides;
use crate::demo::backend::Backend;
use crate::demo::workspace::Workspace;
use crate::gate::{Gate, Options};
use crate::telemetry::events::{Format, Level};

/// Ports that are taken if they are free.
const TRAFFIC_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9901;
/// Any free port of loopback.
const ANY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

pub(super) fn demo(arguments: &Demo) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let backend = Backend::start()
        .map_err(|error| Failure::cannot(format!("the backend cannot start: {error}")))?;
    let listen = arguments.listen.unwrap_or_else(|| free(TRAFFIC_PORT));
    let (gate, workspace) = match set_up(listen, free(ADMIN_PORT), &backend) {
        // Somebody was quicker than we between finding a port free and taking it.
        Err(Failure { code: Code::Cannot, .. }) => {
            set_up(arguments.listen.unwrap_or(ANY), ANY, &backend)?
        }
        set_up => set_up?,
    };
    print(&lesson(&gate, &workspace))?;
    while signals.wait(arguments.exit_after) == Wish::Reload {
        gate.reload();
    }
    drain(gate, &mut signals);
    drop(backend);
    Ok(())
}

fn set_up(
    listen: SocketAddr,
    admin: SocketAddr,
    backend: &Backend,
) -> Result<(Gate, Workspace), Failure> {
    let workspace = Workspace::create(&std::env::temp_dir(), listen, admin, backend.address)
        .map_err(|error| Failure::cannot(format!("no private directory: {error}")))?;
    let gate = start(Options {
        config: workspace.policy.clone(),
        overrides: Overrides::default(),
        clock: Clock::system(),
        env: environment,
        // The lesson is what the terminal is for.
        log: log(Format::Text, Level::Error)?,
        records: None,
        handed: ListenFd::empty(),
    })?;
    Ok((gate, workspace))
}

/// This port of loopback, or any if it is taken.
fn free(port: u16) -> SocketAddr {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if TcpListener::bind(wanted).is_ok() { wanted } else { ANY }
}

fn lesson(gate: &Gate, workspace: &Workspace) -> String {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let traffic = gate.traffic.first().copied().unwrap_or(nowhere);
    let told = |command: fn(SocketAddr, &str) -> String, program: &str| match gate.admin {
        Some(admin) => command(admin, program),
        None => "# the admin listener is off".to_owned(),
    };
    let full = workspace.full.reveal();
    let reader = workspace.reader.reveal();
    let policy = workspace.policy.display();
    let records = workspace.records.display();
    let program =
        std::env::current_exe().map_or("tollgate".into(), |path| path.display().to_string());
    let metrics = told(
        |admin, _| format!("curl -s http://{admin}/metrics | grep '_total{{' | grep -v ' 0$'"),
        &program,
    );
    let credit = told(
        |admin, program| {
            format!("{program} credit add --admin http://{admin} --limit wallet --tenant acme 1.00")
        },
        &program,
    );
    let usage = told(
        |admin, program| format!("{program} usage --admin http://{admin} --tenant acme"),
        &program,
    );
    format!(
        "\
A gate listens on http://{traffic}, with a messaging backend behind it that knows nothing of keys.
Paste these into another terminal. Ctrl-C here ends it, and removes its files.

# Credit first: a message costs 0.05.
{credit}

# A message, with a key that may send: 202. Paste it again: the same answer, from the gate; nothing is sent or charged twice.
curl -i http://{traffic}/sms/send -H 'Authorization: Bearer {full}' -H 'Idempotency-Key: hello-1' -d '{{\"to\":\"+31612345678\",\"text\":\"Hello\"}}'

# What is used, and what is left.
{usage}

# Without a key: 401.
curl -i http://{traffic}/sms/send -d '{{\"to\":\"+31612345678\",\"text\":\"Hello\"}}'

# With a key that may only read: 403 for sending, 200 for reading.
curl -i http://{traffic}/sms/send -H 'Authorization: Bearer {reader}' -d '{{\"to\":\"+31612345678\",\"text\":\"Hello\"}}'
curl -i http://{traffic}/messages -H 'Authorization: Bearer {reader}'

# Events as they happen, not buffered; Ctrl-C ends it.
curl -N http://{traffic}/events -H 'Authorization: Bearer {reader}'

# Twelve at once against a limit of ten a minute: 200, then 429 with Retry-After.
for i in $(seq 12); do curl -s -o /dev/null -w '%{{http_code}} ' http://{traffic}/balance -H 'Authorization: Bearer {full}'; done; echo

# Raise the limit while it runs, and see it in force a second later.
sed -i 's|10/minute|1000/minute|' {policy} && sleep 1 && curl -i http://{traffic}/balance -H 'Authorization: Bearer {full}'

# A key of your own, and its end.
{program} keys new --config {policy} --tenant acme --id mine --scope balance
{program} keys revoke --config {policy} mine

# What the gate counts, and what it writes about each request.
{metrics}
tail -n 3 {records}

"
    )
}
