//! `tollgate version`.

use serde_json::json;

use super::args::Version;
use super::failure::Failure;
use super::print;

pub(super) fn version(arguments: &Version) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    print(&if arguments.json {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let said = json!({ "name": "tollgate", "version": version, "target": target, "policy_version": 1 });
        said.to_string() + "\n"
    } else {
        format!("tollgate {version}\n")
    })
}
