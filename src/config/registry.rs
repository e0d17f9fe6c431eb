//! Things that configurations and catalogs call by name.

use std::fmt;
use std::sync::Arc;

use anyhow::{anyhow, ensure, Error, Result};

use super::error::closest_key;

/// Builders by name, in the order in which they were added. `F` is the type of a builder, such as
/// `dyn Fn(&Config) -> Result<…>`; `builders!` gives each of these types its `register`, which takes a function or a
/// closure.
pub struct Registry<F: ?Sized> {
    key: &'static str,
    entries: Vec<(String, Arc<F>)>,
}

impl<F: ?Sized> Registry<F> {
    /// An empty registry for the names that `key` may have: a configuration key, or what takes its place in messages.
    pub fn new(key: &'static str) -> Self {
        Self { key, entries: Vec::new() }
    }

    /// The entry of that name.
    ///
    /// # Errors
    /// There is none; the message lists those that exist and says which is closest.
    pub fn get(&self, name: &str) -> Result<&F> {
        Ok(self.entries[self.position(name)?].1.as_ref())
    }

    /// All names, in the order of the entries.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// All names and entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &F)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.as_ref()))
    }

    /// Where the entry of that name stands.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn position(&self, name: &str) -> Result<usize> {
        let position = self.entries.iter().position(|(known, _)| known == name);
        position.ok_or_else(|| unknown_name(self.key, name, self.names()))
    }

    /// Adds an entry at the end.
    ///
    /// # Errors
    /// There is one of that name already.
    pub(crate) fn add(&mut self, name: &str, entry: Arc<F>) -> Result<()> {
        self.insert(self.entries.len(), name, entry)
    }

    /// Adds an entry before the one at `position`.
    ///
    /// # Errors
    /// There is one of that name already.
    pub(crate) fn insert(&mut self, position: usize, name: &str, entry: Arc<F>) -> Result<()> {
        ensure!(self.names().all(|known| known != name), "{}: {name:?} is registered twice", self.key);
        self.entries.insert(position, (name.to_owned(), entry));
        Ok(())
    }

    /// Puts another entry in the place of the one of that name.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn replace(&mut self, name: &str, entry: Arc<F>) -> Result<()> {
        let position = self.position(name)?;
        self.entries[position].1 = entry;
        Ok(())
    }
}

impl<F: ?Sized> Clone for Registry<F> {
    fn clone(&self) -> Self {
        Self { key: self.key, entries: self.entries.clone() }
    }
}

impl<F: ?Sized> fmt::Debug for Registry<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        f.debug_list().entries(self.names()).finish()
    }
}

/// The types of builders, and how they come into a registry.
macro_rules! builders {
    ($($(#[$doc:meta])* $name:ident($($argument:ty),*) -> $made:ty;)*) => {$(
        $(#[$doc])*
        pub type $name = dyn Fn($($argument),*) -> Result<$made> + Send + Sync;

        impl $crate::config::registry::Registry<$name> {
            /// Adds an entry: a function, or a closure with what it needs.
            ///
            /// # Errors
            /// There is one of that name already.
            pub fn register(
                &mut self,
                name: &str,
                builder: impl Fn($($argument),*) -> Result<$made> + Send + Sync + 'static,
            ) -> Result<()> {
                self.add(name, std::sync::Arc::new(builder))
            }

            /// Adds entries of this crate, whose names are known to differ.
            pub(crate) fn built_in<const N: usize>(
                &mut self,
                entries: [(&str, fn($($argument),*) -> Result<$made>); N],
            ) {
                for (name, builder) in entries {
                    self.register(name, builder).expect("the names of built-in entries differ");
                }
            }
        }
    )*};
}
pub(crate) use builders;

/// The error for a name that `key` cannot have: lists the known ones and says which of them is probably meant.
pub(crate) fn unknown_name<'a>(key: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    let hint = did_you_mean(". ", name, known.iter().copied());
    anyhow!("{key}: {name:?} is not known; known are {}{hint}", known.join(", "))
}

/// A question that names the known name nearest to `name`, after `before`; nothing where none is near.
pub(crate) fn did_you_mean<'a>(before: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    closest_name(name, known).map_or_else(String::new, |closest| format!("{before}Did you mean {closest}?"))
}

/// The known name that is most likely meant by `name`, if there is one near enough; capitals make no difference.
fn closest_name<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The search is made for keys in capitals.
    let capitals: Vec<(String, &str)> = known.map(|known| (known.to_uppercase(), known)).collect();
    let closest = closest_key(name, capitals.iter().map(|(capital, _)| capital.as_str()))?.to_owned();
    capitals.iter().find(|(capital, _)| *capital == closest).map(|(_, known)| *known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_a_second_entry_is_refused() {
        let mut registry: Registry<str> = Registry::new("MODEL.THING");
        registry.add("SquareThing", "square".into()).unwrap();
        registry.add("Round", "round".into()).unwrap();
        assert_eq!(registry.get("Round").unwrap(), "round");
        let unknown = registry.get("SquaredThing").unwrap_err().to_string();
        let known = "MODEL.THING: \"SquaredThing\" is not known; known are Round, SquareThing";
        assert_eq!(unknown, format!("{known}. Did you mean SquareThing?"));
        assert!(registry.get("Triangle").unwrap_err().to_string().ends_with("known are Round, SquareThing"));
        assert!(registry.add("Round", "again".into()).unwrap_err().to_string().contains("twice"));
        registry.insert(0, "First", "first".into()).unwrap();
        registry.replace("Round", "oval".into()).unwrap();
        assert_eq!(
            registry.clone().entries().collect::<Vec<_>>(),
            [("First", "first"), ("SquareThing", "square"), ("Round", "oval")]
        );
    }
}
