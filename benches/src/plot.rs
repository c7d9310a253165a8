//! Curves as SVG, by hand: one panel for each, both axes in steps of ten.

use std::fmt::Write;

/// A panel: what grows, and seconds for each value of it.
#[derive(Debug)]
pub struct Panel {
    /// What is on the x axis.
    pub title: String,
    /// The curves' names with their points.
    pub curves: Vec<(&'static str, Vec<(f64, f64)>)>,
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 220.0;
/// Room for the labels: left, above, right, below.
const MARGIN: [f64; 4] = [50.0, 26.0, 12.0, 24.0];
const COLOURS: [&str; 3] = ["#c0392b", "#2471a3", "#7f8c8d"];
const PER_ROW: usize = 3;

/// From the logarithm of a value to a place on paper.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn around(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values.clone().map(f64::log10).fold(f64::INFINITY, f64::min);
        let high = values.map(f64::log10).fold(f64::NEG_INFINITY, f64::max);
        // A curve that is flat must not look as if it were not.
        let middle = f64::midpoint(low, high);
        let half = f64::max(0.55, (high - low) * 0.55);
        Self { low: middle - half, high: middle + half, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn tens(&self) -> impl Iterator<Item = f64> {
        (self.low.ceil() as i32..=self.high.floor() as i32).map(|power| 10f64.powi(power))
    }
}

/// All panels in one picture.
pub fn svg(panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(PER_ROW);
    let (width, height) = (WIDTH * PER_ROW as f64, HEIGHT * rows as f64);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (nth, panel) in panels.iter().enumerate() {
        let (x, y) = ((nth % PER_ROW) as f64 * WIDTH, (nth / PER_ROW) as f64 * HEIGHT);
        let _ = writeln!(text, "<g transform=\"translate({x} {y})\">\n{}</g>", drawn(panel));
    }
    text + "</svg>\n"
}

fn drawn(panel: &Panel) -> String {
    let [left, top, right, bottom] = MARGIN;
    let points = || panel.curves.iter().flat_map(|(_, points)| points.iter());
    let xs = Axis::around(points().map(|point| point.0), left, WIDTH - right);
    let ys = Axis::around(points().map(|point| point.1), HEIGHT - bottom, top);
    let mut text = String::new();
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(text, "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#ccc\"/>");
    };
    xs.tens().for_each(|x| line(xs.at(x), ys.from, xs.at(x), ys.to));
    ys.tens().for_each(|y| line(xs.from, ys.at(y), xs.to, ys.at(y)));
    let mut label = |x: f64, y: f64, anchor: &str, fill: &str, words: &str| {
        let _ = writeln!(
            text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{words}</text>"
        );
    };
    xs.tens().for_each(|x| label(xs.at(x), HEIGHT - 8.0, "middle", "#333", &x.to_string()));
    ys.tens().for_each(|y| {
        let words = if y < 1.0 { format!("{} ms", y * 1e3) } else { format!("{y} s") };
        label(left - 5.0, ys.at(y) + 4.0, "end", "#333", &words);
    });
    label(left, 16.0, "start", "#000", &panel.title);
    for (nth, (name, _)) in panel.curves.iter().enumerate() {
        let x = WIDTH - right - 62.0 * (panel.curves.len() - 1 - nth) as f64;
        label(x, 16.0, "end", COLOURS[nth % COLOURS.len()], name);
    }
    for ((_, points), colour) in panel.curves.iter().zip(COLOURS.iter().cycle()) {
        let at = |&(x, y): &(f64, f64)| (xs.at(x), ys.at(y));
        let path: Vec<String> =
            points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        let _ = writeln!(text, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\"/>");
        for (x, y) in points.iter().map(at) {
            let _ =
                writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
        }
    }
    text
}
