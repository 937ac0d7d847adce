//! Whether the upstream can be reached, asked once a second where readiness depends on it (`ready: { upstream: true }`).
//! A connection is made and closed; no request is sent, because a backend counts those.

use std::time::Duration;

use tokio::net::TcpStream;

use super::AdminState;

/// Time between two attempts, and between two looks at whether the policy asks.
const EVERY: Duration = Duration::from_secs(1);
/// The longest attempt, whatever the policy allows requests.
const PATIENCE: Duration = Duration::from_secs(2);

/// Watches for ever and tells the lifecycle.
pub async fn watch(state: &AdminState) {
    let Some(current) = &state.snapshot else { return std::future::pending().await };
    loop {
        let asked = {
            let snapshot = current.load();
            let upstream = &snapshot.upstream;
            snapshot.ready_asks_upstream.then(|| {
                let patience = upstream.connect_timeout.min(PATIENCE);
                (upstream.host.clone(), upstream.port, patience)
            })
        };
        if let Some((host, port, patience)) = asked {
            state.lifecycle.upstream_reachable(reaches(&host, port, patience).await);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether a connection to `host` and `port` can be made within `patience`.
async fn reaches(host: &str, port: u16, patience: Duration) -> bool {
    let attempt = tokio::time::timeout(patience, TcpStream::connect((host, port)));
    matches!(attempt.await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_listens_is_reached_and_one_that_does_not_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(reaches("127.0.0.1", port, PATIENCE).await);
        drop(listener);
        assert!(!reaches("127.0.0.1", port, PATIENCE).await);
    }
}
