//! Tables in Markdown: values with their units, and ratios behind them.

use crate::Figures;

/// Seconds in words.
pub fn seconds(value: f64) -> String {
    match value {
        ..1.0 => format!("{:.1} ms", value * 1e3),
        _ => format!("{value:.2} s"),
    }
}

/// Bytes in words.
pub fn size(value: f64) -> String {
    format!("{:.1} MiB", value / f64::from(1 << 20))
}

/// A value and how often it holds `base`.
pub fn cell(value: Option<f64>, base: Option<f64>, unit: fn(f64) -> String) -> String {
    let Some(value) = value else { return String::new() };
    let ratio = base.map_or(String::new(), |base| format!(" ({:.2})", value / base));
    unit(value) + &ratio
}

/// Any table.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let line = |cells: &[String; N]| format!("| {} |\n", cells.join(" | "));
    let rows: String = rows.iter().map(line).collect();
    line(&head.map(String::from)) + &line(&[(); N].map(|()| "---".into())) + &rows + "\n"
}

/// One payload's figures. What `stopped`, `durable`, `bytes` and restarts are measured by is the
/// table's first row that has the figure; for second checkpoints it is the row's own first one.
pub fn rivals(rows: &[Figures]) -> String {
    let first = |get: fn(&Figures) -> Option<f64>| rows.iter().find_map(get);
    let lines = rows.iter().map(|row| {
        let [stopped, durable, bytes] = row.second;
        [
            row.name.clone(),
            cell(row.stopped, first(|it| it.stopped), seconds),
            cell(row.durable, first(|it| it.durable), seconds),
            cell(row.bytes, first(|it| it.bytes), size),
            cell(stopped, row.stopped, seconds),
            cell(durable, row.durable, seconds),
            cell(bytes, row.bytes, size),
            cell(row.warm, first(|it| it.warm), seconds),
            cell(row.cold, first(|it| it.warm), seconds),
            cell(row.lazy, first(|it| it.warm), seconds),
        ]
    });
    let lines: Vec<[String; 10]> = lines.collect();
    table(
        [
            "",
            "stopped",
            "durable",
            "bytes",
            "2nd: stopped",
            "durable",
            "bytes",
            "restart",
            "from disk",
            "lazily",
        ],
        &lines,
    )
}
