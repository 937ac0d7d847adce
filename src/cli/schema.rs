//! `tollgate schema`: the JSON Schema of the policy file.

use super::failure::Failure;
use super::print;
use crate::config;

pub(super) fn schema() -> Result<(), Failure> {
    print(config::schema())
}
