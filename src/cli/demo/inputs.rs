//! Which images the words on the command line mean.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

/// What an image in a folder is recognised by.
const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp", "gif", "pgm", "ppm"];

/// The images of all words: files, the images of folders, and what patterns match, each in alphabetical order.
///
/// # Errors
/// If a word names nothing.
pub(super) fn expand(words: &[String]) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for word in words {
        let path = Path::new(word);
        if path.is_dir() {
            images.extend(images_of(path)?);
        } else if path.exists() {
            images.push(path.to_owned());
        } else if word.contains(['*', '?', '[']) {
            let matches = glob::glob(word).with_context(|| format!("{word:?} is not a valid pattern"))?;
            let mut matches = matches.collect::<Result<Vec<_>, _>>().with_context(|| format!("reading {word:?}"))?;
            matches.retain(|path| path.is_file());
            ensure!(!matches.is_empty(), "nothing matches {word:?}");
            matches.sort();
            images.extend(matches);
        } else {
            bail!("there is no image or folder {word:?}");
        }
    }
    Ok(images)
}

fn images_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut images = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if path.is_file() && extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) {
            images.push(path);
        }
    }
    ensure!(!images.is_empty(), "there is no image ({}) in {}", EXTENSIONS.join(", "), folder.display());
    images.sort();
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_folders_and_patterns() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["b.jpg", "a.PNG", "notes.txt", "c.jpeg"] {
            std::fs::write(at(name), "").expect("written");
        }
        std::fs::create_dir(at("empty")).expect("made");
        let word = |name: &str| at(name).to_string_lossy().into_owned();
        let expanded = |words: &[String]| expand(words);
        assert_eq!(expanded(&[word(".")]).expect("has images"), [at("./a.PNG"), at("./b.jpg"), at("./c.jpeg")]);
        assert_eq!(expanded(&[word("*.jp*g")]).expect("match"), [at("b.jpg"), at("c.jpeg")]);
        assert_eq!(expanded(&[word("notes.txt"), word("b.jpg")]).expect("exist"), [at("notes.txt"), at("b.jpg")]);
        for missing in ["missing.jpg", "*.bmp", "empty", "***"] {
            let error = format!("{:#}", expanded(&[word(missing)]).expect_err("names nothing"));
            assert!(error.contains(missing), "{error}");
        }
    }
}
