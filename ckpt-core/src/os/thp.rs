//! Transparent huge pages (Documentation/admin-guide/mm/transhuge.rst of the kernel).

/// Whether the kernel gives huge pages without being asked.
pub(crate) fn by_default() -> bool {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    text.is_ok_and(|text| text.contains("[always]"))
}
