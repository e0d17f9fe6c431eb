//! Golden area `models`: what every configuration builds, and small detectors whole.

use super::support;

mod res2net_c4;
mod state_dicts;
pub mod tiny;

#[test]
fn every_file_is_known() {
    let Some(area) = support::area("models") else { return };
    // `loading/` is compared in the area `loading`.
    support::all_files_known(&area, &["state_dicts/", "tiny/", "loading/", "rng.json"]);
}
