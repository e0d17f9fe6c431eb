//! Fault points: places where a test can kill a process of a job or hold it up.
//!
//! The variable `MRB_FAULT` holds `RANK:POINT:ITERATION:kill` (the process ends as by `kill -9`),
//! `RANK:POINT:ITERATION:exhaust` (libtorch is asked for more memory than there can be; not in `all-reduce`, which C++
//! calls) or `RANK:POINT:ITERATION:sleep=SECONDS`; several are separated by commas. A point is the name of a
//! [`Phase`](super::comm::Phase), reached when the phase begins; or `checkpoint file`, in the middle of writing one; or
//! `gather of known lengths`, between the two messages of a gather. A job that a launcher has started again
//! (`TORCHELASTIC_RESTART_COUNT` above 0) has no faults.
//!
//! All this exists only with the cargo feature `fault-points`, which is not on by default: a program built with
//! `cargo build` contains none of it. Tests get it because the crate is its own development dependency with that
//! feature (`Cargo.toml`): `cargo test`, `cargo clippy --all-targets` and `cargo check --all-targets` then agree on the
//! features, so one compilation serves them all and nobody has to remember a flag.

/// Does what `MRB_FAULT` says about this point; nothing in programs without the feature `fault-points`.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn reach(_point: &str) {}

#[cfg(feature = "fault-points")]
pub use enabled::reach;

#[cfg(feature = "fault-points")]
mod enabled {
    use std::sync::OnceLock;
    use std::time::Duration;

    use anyhow::{Context, Result};
    use signal_hook::consts::SIGKILL;
    use tch::{Device, Kind, Tensor};

    use crate::ffi::system::send_signal;
    use crate::utils::comm::{get_rank, iteration};

    /// Does what `MRB_FAULT` says about this point.
    ///
    /// # Panics
    /// `MRB_FAULT` is not of the form above: the test is wrong.
    pub fn reach(point: &str) {
        static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
        let faults = FAULTS.get_or_init(|| {
            let is_restarted = std::env::var("TORCHELASTIC_RESTART_COUNT").is_ok_and(|count| count != "0");
            let text = std::env::var("MRB_FAULT").unwrap_or_default();
            let faults = if is_restarted { "" } else { &text }.split(',').filter(|fault| !fault.is_empty());
            faults.map(|fault| Fault::parse(fault).expect("MRB_FAULT")).collect()
        });
        for fault in faults {
            if fault.point == point && fault.rank == get_rank() && fault.iteration == iteration() {
                match fault.action {
                    Action::Kill => {
                        // The signal may take a moment.
                        let _ = send_signal(std::process::id(), SIGKILL);
                        std::thread::sleep(Duration::from_secs(60));
                    }
                    Action::Exhaust => drop(Tensor::zeros([1 << 60], (Kind::Uint8, Device::Cpu))),
                    Action::Sleep(time) => std::thread::sleep(time),
                }
            }
        }
    }

    #[derive(Debug, PartialEq)]
    struct Fault {
        rank: usize,
        point: String,
        iteration: i64,
        action: Action,
    }

    #[derive(Debug, PartialEq)]
    enum Action {
        Kill,
        Exhaust,
        Sleep(Duration),
    }

    impl Fault {
        fn parse(text: &str) -> Result<Self> {
            let parse = || {
                let mut fields = text.split(':');
                let (rank, point) = (fields.next()?.parse().ok()?, fields.next()?.to_string());
                let (iteration, action) = (fields.next()?.parse().ok()?, fields.next()?);
                let action = match action.strip_prefix("sleep=") {
                    Some(seconds) => Action::Sleep(Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?),
                    None if action == "kill" => Action::Kill,
                    None if action == "exhaust" => Action::Exhaust,
                    None => return None,
                };
                fields.next().is_none().then_some(Self { rank, point, iteration, action })
            };
            parse().with_context(|| format!("{text:?} is not RANK:POINT:ITERATION:kill, …:exhaust or …:sleep=SECONDS"))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_are_read() {
            let sleep = Action::Sleep(Duration::from_millis(1500));
            let expected = Fault { rank: 1, point: "data loading".into(), iteration: 20, action: sleep };
            assert_eq!(Fault::parse("1:data loading:20:sleep=1.5").unwrap(), expected);
            assert_eq!(Fault::parse("0:gather:0:kill").unwrap().action, Action::Kill);
            assert_eq!(Fault::parse("0:forward:1:exhaust").unwrap().action, Action::Exhaust);
            for wrong in
                ["", "1:forward:2", "x:forward:2:kill", "1:forward:2:stop", "1:forward:2:kill:", "0:a:0:sleep=-1"]
            {
                assert!(Fault::parse(wrong).is_err(), "{wrong}");
            }
        }
    }
}
