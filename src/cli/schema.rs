//! `tollgate schema`: the JSON Schema of the policy file.

use super::failure::Failure;
use super::print;
use crate::config::schema;

pub(super) fn schema() -> Result<(), Failure> {
    print(schema::schema())
}
