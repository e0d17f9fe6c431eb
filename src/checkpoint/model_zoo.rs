//! Weights by address: downloaded once, into the folder where the original keeps them (utils/model_zoo.py).

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use sha2::{Digest, Sha256};

use crate::ffi::system::lock_file;
use crate::utils::comm;

/// The cache: `$TORCH_MODEL_ZOO`, else `$TORCH_HOME/models`, else `~/.torch/models`.
pub fn model_dir() -> PathBuf {
    if let Some(folder) = env::var_os("TORCH_MODEL_ZOO") {
        return folder.into();
    }
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| ".".into()));
    let torch_home = match env::var_os("TORCH_HOME").map(PathBuf::from) {
        None => home().join(".torch"),
        Some(given) => match given.strip_prefix("~") {
            Ok(rest) => home().join(rest),
            Err(_) => given,
        },
    };
    torch_home.join("models")
}

/// The name of an address's file in the cache: its last part, or all of its path where that is `model_final.pkl`.
///
/// # Errors
/// An address without a file name.
pub fn file_name(url: &str) -> Result<String> {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme.split(['?', '#']).next().unwrap_or_default();
    let path = path.find('/').map_or("", |slash| &path[slash..]);
    let last = path.rsplit('/').next().unwrap_or_default();
    ensure!(!last.is_empty() && last != "." && last != "..", "{url} names no file");
    Ok(if last == "model_final.pkl" { path.replace('/', "_") } else { last.to_string() })
}

/// The beginning of the SHA-256 that a file name promises (`resnet50-19c8e357.pth`), if it has at least 6 digits
/// (`R-50.pkl` is a name, not a promise).
pub fn hash_prefix(file_name: &str) -> Option<&str> {
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut rest = file_name;
    while let Some((_, after)) = rest.split_once('-') {
        if let Some((digits, _)) = after.split_once('.') {
            if hex(digits) {
                return (digits.len() >= 6).then_some(digits);
            }
        }
        rest = after;
    }
    None
}

/// The file of an address, downloaded into `folder` if it is not there yet. Processes that want the same file at the
/// same time wait for the first one.
///
/// # Errors
/// No connection, a file that does not have the promised hash, a folder that cannot be written; says where to put a
/// file that was fetched by other means.
pub fn cache_url(url: &str, folder: &Path) -> Result<PathBuf> {
    let name = file_name(url)?;
    let target = folder.join(&name);
    if target.exists() {
        return Ok(target);
    }
    let fetch = || -> Result<()> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join(format!("{name}.lock")))?;
        lock_file(&lock)?;
        if target.exists() {
            return Ok(());
        }
        log::info!("Downloading: \"{url}\" to {}", target.display());
        let part = folder.join(format!("{name}.part"));
        download(url, &part)?;
        check_hash(&part, &name)?;
        fs::rename(&part, &target)?;
        Ok(())
    };
    fetch().with_context(|| {
        format!(
            "{url} could not be fetched. If you have the file, or can get it elsewhere, put it here: {}",
            target.display()
        )
    })?;
    Ok(target)
}

/// [`cache_url`] for all processes of a job together: rank 0 fetches while the others wait. Where the cache is not the
/// same folder for all, the first process of each other machine fetches then, and last whoever still has no file.
///
/// # Errors
/// As [`cache_url`], in the process that could not fetch; the others are told of it.
pub fn cache_url_in_turn(url: &str, folder: &Path) -> Result<PathBuf> {
    let target = folder.join(file_name(url)?);
    comm::main_process_works("fetching the weights", || cache_url(url, folder))?;
    for mine in [comm::get_local_rank() == 0, true] {
        let fetched = if mine { cache_url(url, folder).map(drop) } else { Ok(()) };
        let failed = comm::any(fetched.is_err())?;
        fetched?;
        ensure!(!failed, "{url} could not be fetched by another process of the job, which says why");
    }
    Ok(target)
}

/// A wrong file is removed, so that the next attempt starts from nothing.
fn check_hash(part: &Path, name: &str) -> Result<()> {
    let Some(promised) = hash_prefix(name) else { return Ok(()) };
    let mut hasher = Sha256::new();
    let mut file = File::open(part)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if !found.starts_with(promised) {
        fs::remove_file(part)?;
        bail!("the file's SHA-256 begins with {}, its name promises {promised}", &found[..8]);
    }
    Ok(())
}

#[cfg(not(feature = "download"))]
fn download(_: &str, _: &Path) -> Result<()> {
    anyhow::bail!("this program was built without the feature `download`")
}

#[cfg(feature = "download")]
use http::download;

#[cfg(feature = "download")]
mod http {
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::path::Path;
    use std::time::Duration;

    use anyhow::{bail, ensure, Context, Result};
    use ureq::Agent;

    use crate::utils::progress::Progress;

    /// A connection that breaks is tried again this often in a row without a new byte.
    const ATTEMPTS: usize = 4;

    /// Fetches into `part`, going on where an earlier attempt, of this process or another, was cut off.
    pub(super) fn download(url: &str, part: &Path) -> Result<()> {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build()
            .into();
        let mut failures = 0;
        loop {
            let before = part.metadata().map_or(0, |m| m.len());
            let error = match attempt(&agent, url, part, before) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let more = part.metadata().map_or(0, |m| m.len()) > before;
            failures = if more { 0 } else { failures + 1 };
            let hopeless = error.downcast_ref::<Refused>().is_some();
            if hopeless || failures == ATTEMPTS {
                return Err(error);
            }
            log::warn!("{url}: {error:#}; trying again");
            std::thread::sleep(Duration::from_millis(if more { 50 } else { 200 << failures }));
        }
    }

    /// An answer that will not change when the question is repeated.
    #[derive(Debug, thiserror::Error)]
    #[error("the server answers {0}")]
    struct Refused(String);

    fn attempt(agent: &Agent, url: &str, part: &Path, have: u64) -> Result<()> {
        // Compressed on the way, a part would not be a part of the file.
        let mut request = agent.get(url).header("Accept-Encoding", "identity");
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let response = request.call()?;
        let status = response.status();
        let number = |name: &str| -> Option<u64> {
            let value = response.headers().get(name)?.to_str().ok()?;
            // `Content-Range: bytes 10-19/20` or `bytes */20`
            value.rsplit('/').next()?.parse().ok()
        };
        let (start, total) = match status.as_u16() {
            200 => (0, number("Content-Length")),
            206 => (have, number("Content-Range")),
            416 if number("Content-Range") == Some(have) => return Ok(()),
            416 => {
                std::fs::remove_file(part)?;
                bail!("the server has a shorter file than what was fetched before");
            }
            500.. | 408 | 429 => bail!("the server answers {status}"),
            _ => return Err(Refused(status.to_string()).into()),
        };
        let mut file = match start {
            0 => File::create(part)?,
            _ => OpenOptions::new().append(true).open(part)?,
        };
        const STEP: u64 = 1 << 20;
        let mut progress =
            Progress::new(module_path!(), "MB", total.unwrap_or(0) / STEP, false).starting_at(start / STEP);
        let (_, body) = response.into_parts();
        let mut reader = body.into_reader();
        let mut buffer = vec![0; 1 << 16];
        let mut done = start;
        loop {
            let count = reader.read(&mut buffer).context("the connection broke")?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count])?;
            let before = done / STEP;
            done += count as u64;
            progress.inc(done / STEP - before);
        }
        if let Some(total) = total {
            ensure!(total == done, "the connection ended after {done} of {total} bytes");
        }
        file.sync_all()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
