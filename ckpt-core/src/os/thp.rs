//! Transparent huge pages (Documentation/admin-guide/mm/transhuge.rst of the kernel).

/// Bytes of one.
pub(crate) const HUGE: u64 = 2 << 20;

/// Where the kernel gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Everywhere.
    Always,
    /// Where it is asked for them.
    Madvise,
    /// Nowhere.
    Never,
}

/// The system's.
pub(crate) fn policy() -> Policy {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    match text.as_deref().unwrap_or_default() {
        text if text.contains("[always]") => Policy::Always,
        text if text.contains("[madvise]") => Policy::Madvise,
        _ => Policy::Never,
    }
}
