//! The `tollgate` command.

use std::process::ExitCode;

/// A request over HTTP/1 makes six small allocations, one over HTTP/2 many more, nearly all of them hyper's; this allocator takes
/// a third of the time of the system's for them. How it keeps and returns memory is set in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tollgate::cli::main()
}
