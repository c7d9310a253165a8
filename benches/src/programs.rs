//! Real programs, as far as they are here: bash, numpy, PyTorch, LAMMPS.

use std::process::Command;

use crate::payload::{Payload, Place, READY, source};
use crate::run::{found, must};

/// Without its network, which no job of one process needs.
const MPI_ALONE: [(&str, &str); 5] = [
    ("OMPI_MCA_ess_singleton_isolated", "1"),
    ("OMPI_MCA_pml", "ob1"),
    ("OMPI_MCA_btl", "self"),
    ("OMPI_MCA_oob", "^tcp"),
    ("PMIX_MCA_ptl", "^tcp"),
];

/// Those that are here, and the names of those that are not.
pub fn here(place: &Place) -> (Vec<Payload<'_>>, Vec<&'static str>) {
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    let script = |title: &str, words: &[&str]| Payload {
        place,
        title: title.into(),
        words: words.iter().map(|&word| word.into()).collect(),
        environment: Vec::new(),
        begins: READY,
        dump: None,
        touches: false,
    };
    let file = |name: &str| source(name).display().to_string();
    all.push(script("bash, three processes", &["bash", &file("ticker.sh")]));
    for (module, title) in [("numpy", "numpy"), ("torch", "PyTorch")] {
        let Some((python, version)) = python_with(module) else {
            missing.push(title);
            continue;
        };
        let title = format!("{title} {version}, 256 MiB");
        let mut payload = script(&title, &[&python, &file("ticker.py"), module, "256"]);
        // The second core is the ticker's.
        payload.environment =
            ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"].map(|it| (it, "1".into())).into();
        all.push(payload);
    }
    if let Some(lmp) = found("lmp", "LAMMPS") {
        let lmp = lmp.display().to_string();
        let words = [&lmp, "-log", "none", "-in", &file("melt.lammps")];
        let mut payload = script("LAMMPS, a melt; *stopped* as ckpt tells it", &words);
        payload.begins = "Step";
        payload.environment = MPI_ALONE.map(|(name, value)| (name, value.into())).into();
        all.push(payload);
    } else {
        missing.push("LAMMPS");
    }
    (all, missing)
}

/// The python3 of `$PATH` may be one that lacks it.
fn python_with(module: &str) -> Option<(String, String)> {
    let code = format!("import {module}; print({module}.__version__)");
    ["/usr/bin/python3", "python3"].into_iter().find_map(|python| {
        let version = must(Command::new(python).args(["-c", &code])).ok()?;
        Some((python.to_owned(), version.trim().to_owned()))
    })
}
