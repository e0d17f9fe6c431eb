//! What can be wrong with a configuration.

use thiserror::Error;

/// The kind of a [`ConfigError`]; the names are those of the cases that yacs tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A key that the defaults do not have.
    UnknownKey,
    /// A value whose type is not the one of the default.
    TypeMismatch,
    /// An override list with a key that has no value.
    OddLength,
    /// A value of a type that no key can have.
    InvalidLeafType,
    /// A file that is not YAML.
    YamlSyntax,
    /// Anything else: a file that cannot be read, a key that is not a string, a value out of range.
    Other,
}

/// A configuration that cannot be used: where it was given, which key, what was expected and found.
#[derive(Clone, Debug, Error)]
#[error(
    "{}{message}{}",
    .origin.as_ref().map(|o| format!("{o}: ")).unwrap_or_default(),
    .hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default()
)]
pub struct ConfigError {
    kind: ErrorKind,
    /// The file or the override.
    origin: Option<String>,
    key: Option<String>,
    message: String,
    /// What to do about it.
    hint: Option<String>,
}

impl ConfigError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, origin: None, key: None, message: message.into(), hint: None }
    }

    pub(super) fn unknown_key(key: &str) -> Self {
        Self {
            key: Some(key.into()),
            ..Self::new(ErrorKind::UnknownKey, format!("there is no configuration key {key}"))
        }
    }

    pub(super) fn with_key(mut self, key: &str) -> Self {
        self.message = format!("{key}: {}", self.message);
        self.key = Some(key.into());
        self
    }

    pub(super) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    pub(super) fn at(mut self, origin: impl Into<String>) -> Self {
        self.origin.get_or_insert(origin.into());
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The dotted key it is about, if it is about one.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

/// The known key that is most likely meant by `key`: one with the same last part, else the one with the smallest
/// edit distance, if that is small.
pub(super) fn closest_key<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let last = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
    let wanted = key.to_uppercase();
    let wanted_last = wanted.rsplit('.').next().unwrap_or(&wanted);
    let near = |limit: usize| {
        let distances = known.clone().map(|k| (edit_distance(&wanted, k), k));
        distances.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance <= limit).map(|(_, k)| k)
    };
    let same_last = || {
        let candidates = known.clone().filter(|k| last(k) == wanted_last);
        candidates.min_by_key(|k| edit_distance(&wanted, k))
    };
    near(2).or_else(same_last).or_else(|| near(wanted.len() / 3))
}

/// Levenshtein's distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }

    #[test]
    fn closest_keys() {
        let known = ["SOLVER.MAX_ITER", "SOLVER.BASE_LR", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "OUTPUT_DIR"];
        let closest = |key| closest_key(key, known.into_iter());
        assert_eq!(closest("SOLVER.MAX_ITERS"), Some("SOLVER.MAX_ITER"));
        assert_eq!(closest("solver.max_iter"), Some("SOLVER.MAX_ITER"));
        assert_eq!(closest("MODEL.NUM_CLASSES"), Some("MODEL.ROI_BOX_HEAD.NUM_CLASSES"));
        assert_eq!(closest("MAX_ITER"), Some("SOLVER.MAX_ITER"));
        assert_eq!(closest("SOMETHING.ELSE"), None);
    }
}
