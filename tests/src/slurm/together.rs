//! Scenarios that share a cluster. They wait nearly all of their time, so they do it at once.

use std::thread;
use std::time::Instant;

use super::Cluster;

/// Its name, and what happens.
pub type Scenario<'a> = (&'a str, &'a (dyn Fn(&Cluster) + Sync));

impl Cluster {
    /// Plays all of them at the same time, or those with `$CKPT_TEST_SCENARIO` in their names.
    ///
    /// # Panics
    ///
    /// When one of them has, after the end of all.
    pub fn plays(&self, scenarios: &[Scenario<'_>]) {
        let wanted = std::env::var("CKPT_TEST_SCENARIO").unwrap_or_default();
        let failed: Vec<&str> = thread::scope(|scope| {
            let chosen = scenarios.iter().filter(|(name, _)| name.contains(&wanted));
            let threads: Vec<_> = chosen
                .map(|&(name, scenario)| {
                    let thread = thread::Builder::new().name(name.to_owned());
                    let played = thread.spawn_scoped(scope, move || {
                        let begun = Instant::now();
                        scenario(self);
                        println!("{name}: {:.0?}", begun.elapsed());
                    });
                    (name, played.expect("threads can be made"))
                })
                .collect();
            threads.into_iter().filter_map(|(name, it)| it.join().err().map(|_| name)).collect()
        });
        assert!(failed.is_empty(), "failed: {failed:?}");
    }
}
