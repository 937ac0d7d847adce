//! What the kernel says about this process, read at each scrape. What cannot be read is left out, never guessed.

use std::fs;

/// Figures of this process; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// User and system time, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// Open descriptors.
    pub(super) open_fds: Option<u64>,
    /// The soft limit of descriptors; `None` too where there is no limit.
    pub(super) max_fds: Option<u64>,
    /// Resident memory in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// Virtual memory in bytes.
    pub(super) virtual_bytes: Option<u64>,
    /// Threads.
    pub(super) threads: Option<u64>,
}

/// Reads them.
pub(super) fn read() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Process {
        cpu_seconds: fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds),
        open_fds: fs::read_dir("/proc/self/fd")
            .ok()
            // The directory's own descriptor is one of those it lists.
            .map(|entries| (entries.count() as u64).saturating_sub(1)),
        max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        resident_bytes: field(&status, "VmRSS:").map(|kib| kib.saturating_mul(1024)),
        virtual_bytes: field(&status, "VmSize:").map(|kib| kib.saturating_mul(1024)),
        threads: field(&status, "Threads:"),
    }
}

/// utime and stime, fields 14 and 15 of proc(5)'s stat; the second field is a name in brackets that may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((f64::from(user) + f64::from(system)) / f64::from(per_second.max(1)))
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let ticks = f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap());
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 5 1 1";
        assert_eq!(cpu_seconds(stat), Some(300.0 / ticks));
        assert_eq!(cpu_seconds("nothing"), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let process = read();
        assert!(process.resident_bytes > Some(0));
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.threads > Some(0));
        assert!(process.open_fds > Some(0));
        assert!(process.cpu_seconds.is_some());
    }
}
