//! Values and keys that are one of a few words, and the guess at what was meant by any other.

use std::fmt::Display;

use super::error::Problem;

/// A value that is written as one of a few words.
pub(super) trait Word: Copy + Display + 'static {
    /// All values, in the order in which an error lists them.
    const ALL: &'static [Self];

    /// What other balancers call some of them.
    const ELSEWHERE: &'static [(&'static str, Self)] = &[];

    /// The value that `text` names.
    fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(&value) = Self::ALL.iter().find(|value| value.to_string() == text) {
            return Ok(value);
        }
        let words: Vec<String> = Self::ALL.iter().map(Self::to_string).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let elsewhere = Self::ELSEWHERE.iter().find(|(name, _)| *name == text).map(|(_, value)| value.to_string());
        let help = match elsewhere.as_deref().or_else(|| closest(text, &words)) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("write {}", alternatives(&words)),
        };
        Err(Problem::new(format!("{text:?} is not known"), help))
    }
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
pub(super) fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The candidate that `text` is most likely to mean: the one nearest to it, at most two edits away, and fewer than
/// half of its letters. There is none if several are as near.
pub(super) fn closest<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let mut near: Vec<(usize, &str)> = candidates
        .iter()
        .map(|candidate| (edit_distance(text, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= 2 && 2 * edits < candidate.len())
        .collect();
    near.sort_unstable();
    match near[..] {
        [(first, _), (second, _), ..] if first == second => None,
        [(_, meant), ..] => Some(meant),
        [] => None,
    }
}

/// Levenshtein distance: insertions, deletions and replacements of characters.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (removed, from_char) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = removed + 1;
        for (column, to_char) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from_char != *to_char);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::{closest, edit_distance};

    #[test]
    fn each_insertion_deletion_and_replacement_is_one_edit() {
        assert_eq!(edit_distance("weight", "weight"), 0);
        assert_eq!(edit_distance("wieght", "weight"), 2);
        assert_eq!(edit_distance("", "weight"), 6);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn the_nearest_word_is_meant() {
        assert_eq!(closest("pats", &["port", "path"]), Some("path"));
    }

    #[test]
    fn of_words_equally_near_none_is_meant() {
        assert_eq!(closest("tdp", &["tcp", "udp"]), None);
    }

    #[test]
    fn a_short_word_is_not_meant_by_any_other_short_word() {
        assert_eq!(closest("sctp", &["tcp", "udp", "icmp"]), None);
    }
}
