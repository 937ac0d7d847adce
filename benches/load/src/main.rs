//! Generators and a backend for the comparisons in `benches/`, each on one thread, on loopback, for a bounded time.
//!
//! | command | does |
//! |---|---|
//! | `answer` | answers until it is ended: HTTP/1.1, HTTP/2 without TLS, HTTPS, WebSocket echo, server-sent events |
//! | `closed` | so many connections, each asking again when it is answered; with a new connection a request if told |
//! | `open` | requests at fixed times, whatever the answers take; latency from the time a request was meant to leave |
//! | `messages` | WebSocket messages, each sent when the one before came back |
//! | `events` | listens to streams of server-sent events, some busy, some idle |
//!
//! Each but `answer` prints one line of JSON when it ends.

mod answer;
mod arguments;
mod ask;
mod closed;
mod events;
mod messages;
mod open;
mod wire;

use arguments::Arguments;

fn main() {
    let (command, arguments) = Arguments::from_command_line();
    let outcome = match command.as_str() {
        "answer" => answer::run(&arguments),
        "closed" => closed::run(&arguments),
        "open" => open::run(&arguments),
        "messages" => messages::run(&arguments),
        "events" => events::run(&arguments),
        _ => Err(std::io::Error::other(
            "usage: load answer|closed|open|messages|events --NAME VALUE …",
        )),
    };
    if let Err(error) = outcome {
        eprintln!("load {command}: {error}");
        std::process::exit(1);
    }
}
