//! What takes no name and changes nothing: metrics, health, readiness and the policy in force.

use http::{Response, StatusCode};
use serde_json::json;

use super::AdminState;
use super::answers::{Answer, Problem, json_answer, whole};
use crate::telemetry::metrics::TEXT_TYPE;
use crate::telemetry::rfc3339;

pub(super) fn metrics(state: &AdminState) -> Response<Answer> {
    match state.metrics.render() {
        Ok(text) => whole(StatusCode::OK, TEXT_TYPE, text),
        Err(error) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "metrics_failed", error.to_string()).answer()
        }
    }
}

/// Says only that the process turns: what it depends on must not restart it.
pub(super) fn healthz(_: &AdminState) -> Response<Answer> {
    json_answer(StatusCode::OK, &json!({ "status": "ok" }))
}

pub(super) fn readyz(state: &AdminState) -> Response<Answer> {
    match state.lifecycle.ready() {
        Ok(()) => json_answer(StatusCode::OK, &json!({ "status": "ready" })),
        Err(not) => json_answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "status": "not_ready", "reason": not.name() }),
        ),
    }
}

pub(super) fn policy(state: &AdminState) -> Response<Answer> {
    let status = state.metrics.policy_status();
    let refused = status.refused.map(|(at, problems)| {
        let at = rfc3339(at);
        json!({ "at": at, "problems": problems })
    });
    json_answer(
        StatusCode::OK,
        &json!({
            "digest": status.digest,
            "keys_digest": status.keys_digest,
            "generation": status.generation,
            "loaded_at": status.loaded_at.map(rfc3339),
            "keys": status.keys,
            "last_load_ok": refused.is_none() && status.loaded_at.is_some(),
            "last_error": refused,
            "restart_needed": status.restart_needed,
        }),
    )
}
