//! The `tollgate` command.

use std::process::ExitCode;

/// A request makes some sixty small allocations, nearly all of them hyper's; this allocator takes a third of the time of
/// the system's for them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tollgate::cli::main()
}
