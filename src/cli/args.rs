//! The command-line arguments that the programs share.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use super::usage::{check_keys, with_tip};
use super::CommandLine;
use crate::config::Config;
use crate::ffi;
use crate::modeling::detector::GeneralizedRcnn;

/// The configuration on the command line. Flatten it into a program's own arguments as the last field.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    /// Path to the configuration file.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub config_file: String,

    /// Seed of every random number; drawn and logged when absent.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Changes to the configuration, `KEY VALUE …`. After the first KEY everything belongs to them, also what begins
    /// with a hyphen.
    #[arg(value_name = "KEY VALUE", trailing_var_arg = true)]
    pub opts: Vec<String>,
}

impl ConfigArgs {
    /// The configuration file's path; `None` when the defaults are used alone.
    pub fn path(&self) -> Option<&Path> {
        (!self.config_file.is_empty()).then(|| Path::new(&self.config_file))
    }

    /// The configuration: the defaults, the file and the overrides.
    ///
    /// # Errors
    /// A word in the place of a key that belongs elsewhere on the command line; or see [`Config::load`].
    pub fn load(&self) -> Result<Config> {
        check_keys(&self.opts)?;
        Ok(Config::load(self.path(), &self.opts)?)
    }
}

/// The longest time to wait for anything, in seconds; clocks end somewhere.
const A_YEAR: u64 = 365 * 24 * 3600;

/// How a process finds the others of its job, beside what the environment says.
#[derive(Clone, Debug, clap::Args)]
pub struct DistributedArgs {
    /// Number of this process on its machine; launchers set it.
    #[arg(long = "local_rank", alias = "local-rank", value_name = "NUMBER")]
    pub local_rank: Option<usize>,

    /// How long to wait for the other processes, at the start and in every step together.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800,
          value_parser = clap::value_parser!(u64).range(1..=A_YEAR))]
    pub dist_timeout: u64,

    /// Names the processes for which the others have waited this long, with their iteration and phase (at the start
    /// after 10 seconds already); 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u64).range(..=A_YEAR))]
    pub slow_after: u64,
}

impl DistributedArgs {
    /// How long to wait for the other processes.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.dist_timeout)
    }

    /// After which wait those who are late are named, if ever.
    pub fn slow_after(&self) -> Option<Duration> {
        (self.slow_after > 0).then(|| Duration::from_secs(self.slow_after))
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// The setting is made.
    On,
    /// The opposite is set; not giving the option leaves libtorch's or the device's own choice.
    Off,
}

/// How libtorch computes, beside `DTYPE`.
#[derive(Clone, Debug, clap::Args)]
pub struct BackendArgs {
    /// Uses operators whose results do not depend on the order in which threads of the GPU come, where there are such:
    /// a run can be repeated bit by bit, at some cost in speed.
    #[arg(long)]
    pub deterministic: bool,

    /// Whether float32 matrix products and convolutions on a GPU may round their factors to TF32 (10 bits of mantissa).
    /// Without it libtorch's own choice holds: convolutions may, matrix products may not.
    #[arg(long, value_name = "on|off")]
    pub tf32: Option<Switch>,

    /// Whether feature maps have the channels of each pixel side by side in memory, which the GPU's matrix units read
    /// without reordering. Without it they have so. For a GPU only: on the CPU inference has them so, and training not.
    #[arg(long, value_name = "on|off")]
    pub channels_last: Option<Switch>,
}

impl BackendArgs {
    /// Makes the settings that hold for the whole process. To be called before anything is computed on a GPU.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn apply(&self) -> Result<()> {
        if self.deterministic {
            const WORKSPACE: &str = "CUBLAS_WORKSPACE_CONFIG";
            // cuBLAS is only deterministic with workspaces of a fixed size, and reads this when it is first used.
            if std::env::var_os(WORKSPACE).is_none() {
                std::env::set_var(WORKSPACE, ":4096:8");
            }
            ffi::set_deterministic(true)?;
            // Off in the original too; trying algorithms out may choose another one in the next run.
            tch::Cuda::cudnn_set_benchmark(false);
        }
        match self.tf32 {
            Some(switch) => ffi::set_tf32(switch == Switch::On),
            None => Ok(()),
        }
    }

    /// The model with the chosen format of feature maps.
    ///
    /// # Errors
    /// See [`GeneralizedRcnn::with_channels_last`].
    pub fn format(&self, model: GeneralizedRcnn) -> Result<GeneralizedRcnn> {
        match self.channels_last {
            Some(switch) => model.with_channels_last(switch == Switch::On).context("--channels-last"),
            None => Ok(model),
        }
    }
}

/// Parses a command line as the original's `argparse` does: unambiguous beginnings of option names are accepted, and of
/// an option that is given twice the last value holds.
///
/// # Errors
/// A [`clap::Error`] for wrong usage, and for `--help`.
pub fn parse<T: Parser>(args: impl CommandLine) -> Result<T> {
    let command = T::command().infer_long_args(true).args_override_self(true);
    let name = command.get_name().to_owned();
    let matches = command.try_get_matches_from(args).map_err(|error| with_tip(error, &name))?;
    Ok(T::from_arg_matches(&matches)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Member {
        #[command(flatten)]
        distributed: DistributedArgs,
    }

    #[test]
    fn times_to_wait_have_an_end() {
        let member = |option: &str, seconds: &str| parse::<Member>(["member", option, seconds].map(Into::into));
        for (option, wrong) in
            [("--dist-timeout", "0"), ("--dist-timeout", "31536001"), ("--slow-after", "18446744073709551615")]
        {
            let error = member(option, wrong).expect_err("out of range").to_string();
            assert!(error.contains(option) && error.contains("31536000"), "{error}");
        }
        assert_eq!(member("--slow-after", "0").unwrap().distributed.slow_after(), None);
        assert_eq!(member("--dist-timeout", "31536000").unwrap().distributed.timeout().as_secs(), 31_536_000);
    }

    #[derive(Debug, Parser)]
    struct Program {
        #[arg(long)]
        skip_test: bool,
        #[arg(long = "local_rank", alias = "local-rank", default_value_t = 0)]
        local_rank: i64,
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn parsed(line: &str) -> Program {
        parse(line.split_whitespace().map(Into::into)).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn options_come_before_the_first_key() {
        let program = parsed("train_net --config-file a.yaml --local_rank=1 --skip-test SOLVER.BASE_LR 0.01");
        assert_eq!(program.config.path(), Some(Path::new("a.yaml")));
        assert!(program.skip_test);
        assert_eq!(program.local_rank, 1);
        assert_eq!(program.config.opts, ["SOLVER.BASE_LR", "0.01"]);
    }

    #[test]
    fn after_the_first_key_everything_is_an_override() {
        let program = parsed("train_net MODEL.RPN.STRADDLE_THRESH -1 --skip-test --config-file x -- -h");
        assert!(!program.skip_test);
        assert_eq!(program.config.path(), None);
        let expected = ["MODEL.RPN.STRADDLE_THRESH", "-1", "--skip-test", "--config-file", "x", "--", "-h"];
        assert_eq!(program.config.opts, expected);
    }

    #[test]
    fn both_spellings_and_beginnings_of_names_are_accepted() {
        assert_eq!(parsed("train_net --local-rank 2").local_rank, 2);
        assert_eq!(parsed("train_net --local_rank 3").local_rank, 3);
        assert_eq!(parsed("train_net --config a.yaml").config.config_file, "a.yaml");
        assert!(parsed("train_net --skip").skip_test);
        assert_eq!(parsed("train_net --seed 7 A 1").config.seed, Some(7));
    }

    #[test]
    fn of_what_is_given_twice_the_last_holds() {
        let twice =
            parsed("train_net --config-file a --seed 1 --skip-test --config-file b --seed 2 --skip-test A 1 A 2");
        assert_eq!((twice.config.config_file.as_str(), twice.config.seed), ("b", Some(2)));
        assert!(twice.skip_test);
        assert_eq!(twice.config.opts, ["A", "1", "A", "2"]);
    }

    #[test]
    fn unknown_options_are_usage_errors() {
        let error = parse::<Program>(["train_net", "--skip-tests"].map(Into::into)).unwrap_err();
        assert!(error.downcast_ref::<clap::Error>().is_some_and(|e| e.exit_code() == 2), "{error}");
        let help = parse::<Program>(["train_net", "--help"].map(Into::into)).unwrap_err();
        assert!(help.downcast_ref::<clap::Error>().is_some_and(|e| e.exit_code() == 0), "{help}");
    }
}
