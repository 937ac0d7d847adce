//! Memory that is needed soon. A hint to the processor and nothing else: what is said here changes no result.
//!
//! A plain read ahead does less: what comes behind an unfinished read is kept by the processor in a short list, and when that is
//! full it stands still. Where a processor takes no such hint that can be given without `unsafe`, nothing happens.

/// Begins to bring the line of memory in which this begins.
#[inline]
pub(crate) fn ahead<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    safe_arch::prefetch_t0(what);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
