//! Reads the YAML of this project's examples: mappings and lists by indentation, those of one line in
//! brackets, and plain or quoted words. Refuses what else there is in YAML.

use serde_json::{Map, Value};

/// A line that is not empty: how far it is indented, and what it says.
type Line<'a> = (usize, &'a str);

/// The document.
pub fn read(text: &str) -> Value {
    let lines: Vec<Line<'_>> = text.lines().filter_map(line).collect();
    let mut rest = lines.as_slice();
    let document = block(&mut rest, 0);
    assert!(rest.is_empty(), "{rest:?}");
    document
}

fn line(text: &str) -> Option<Line<'_>> {
    let text = match text.trim_start().starts_with('#') {
        true => "",
        false => text.split(" #").next().unwrap_or(text),
    };
    let said = text.trim();
    let indent = text.len() - text.trim_start().len();
    (!said.is_empty()).then_some((indent, said))
}

/// Takes the lines that are indented as far as the first one.
fn block(rest: &mut &[Line<'_>], least: usize) -> Value {
    let Some(&(indent, said)) = rest.first() else {
        return Value::Null;
    };
    if indent < least {
        return Value::Null;
    }
    match said.starts_with("- ") {
        true => list(rest, indent),
        false => Value::Object(mapping(rest, indent)),
    }
}

fn list(rest: &mut &[Line<'_>], indent: usize) -> Value {
    let mut items = Vec::new();
    while let Some(&(at, said)) = rest.first() {
        let Some(item) = said.strip_prefix("- ").filter(|_| at == indent) else {
            break;
        };
        if is_pair(item) {
            // Its first key stands beside the dash, the others below that.
            let mut lines = rest.to_vec();
            lines[0] = (indent + 2, item);
            let mut inner = lines.as_slice();
            items.push(Value::Object(mapping(&mut inner, indent + 2)));
            *rest = &rest[rest.len() - inner.len()..];
        } else {
            items.push(flow(item));
            *rest = &rest[1..];
        }
    }
    Value::Array(items)
}

fn mapping(rest: &mut &[Line<'_>], indent: usize) -> Map<String, Value> {
    let mut pairs = Map::new();
    while let Some(&(at, said)) = rest.first() {
        if at != indent || said.starts_with("- ") {
            assert!(at <= indent, "{said:?} is indented too far");
            break;
        }
        assert!(is_pair(said), "expected a key: {said:?}");
        *rest = &rest[1..];
        let (key, value) = said.split_once(':').unwrap_or((said, ""));
        let value = match value.trim() {
            "" => block(rest, indent + 1),
            value => flow(value),
        };
        let before = pairs.insert(key.to_owned(), value);
        assert!(before.is_none(), "{key} is there twice");
    }
    pairs
}

fn is_pair(said: &str) -> bool {
    let is_flow = said.starts_with(['{', '[', '"']);
    !is_flow && (said.ends_with(':') || said.contains(": "))
}

/// A value on one line.
fn flow(said: &str) -> Value {
    let inner = |open, close| said.strip_prefix(open)?.strip_suffix(close);
    let items = |text: &'_ str| {
        text.split(',')
            .map(|it| it.trim().to_owned())
            .collect::<Vec<_>>()
    };
    if let Some(inner) = inner('[', ']') {
        return items(inner).iter().map(|item| flow(item)).collect();
    }
    if let Some(inner) = inner('{', '}') {
        let pairs = items(inner).into_iter().map(|pair| {
            let (key, value) = pair.split_once(": ").expect("a pair");
            (key.to_owned(), flow(value.trim()))
        });
        return Value::Object(pairs.collect());
    }
    if let Some(quoted) = inner('"', '"') {
        return quoted.into();
    }
    serde_json::from_str(said).unwrap_or_else(|_| said.into())
}
