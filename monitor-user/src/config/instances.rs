//! `instances`: which services a template makes.

use std::collections::HashSet;

use super::cursor::{Item, quoted};
use super::is_service_name;

const WHAT: &str =
    r#"a number of instances from 0 to 1000, or an array of names such as ["a", "b"]"#;
const MOST: i64 = 1000;

/// The instances' names, in their order; a number has those from 1 on.
pub(super) fn names(item: &Item<'_>, prefix: &str) -> Option<Vec<String>> {
    let Some(items) = item.as_array() else {
        let number = item.as_integer().map(|(number, _)| number);
        let number = number.filter(|number| (0..=MOST).contains(number));
        if number.is_none() {
            item.expected(WHAT, None);
        }
        return Some((1..=number?).map(|number| number.to_string()).collect());
    };
    let mut names: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for item in items {
        let name = item.string("the name of an instance")?;
        if !is_instance_name(prefix, name) {
            item.expected(
                "the name of an instance: letters, digits and _ . @ -, not beginning with a dot, of at \
                 most 64 with the service's",
                None,
            );
            return None;
        }
        if !seen.insert(name.to_owned()) {
            item.problem(format!("instance {} is listed twice", quoted(name)));
            return None;
        }
        names.push(name.to_owned());
    }
    Some(names)
}

/// Names of instances go into paths.
pub(super) fn is_instance_name(prefix: &str, name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && is_service_name(&format!("{prefix}@{name}"))
}
