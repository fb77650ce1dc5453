//! What the tests of properties are fed with: any JSON, and good JSON that was changed a little.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Map, Value, json};

/// How properties are tested: what failed once is kept below `tests/seeds` and tried first.
pub fn config() -> ProptestConfig {
    let seeds = FileFailurePersistence::SourceParallel("tests/seeds");
    ProptestConfig { failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

/// JSON of any form and some depth.
pub fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Numbers that are read as they were written, as most are not.
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        any::<String>().prop_map(Value::from),
        "[a-z_]{1,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let object = prop::collection::vec(("[a-z_]{0,9}", inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Value::from),
            object.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A change at some place of a JSON value.
#[derive(Debug, Clone)]
pub struct Edit {
    place: Index,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    /// Something else is there.
    Replace(Value),
    /// Something near is there: a number beside it, a longer text.
    Nudge,
    /// It is missing.
    Remove,
    /// It is there twice, if it stands in a list.
    Repeat,
    /// A list or an object has one more.
    Add(String, Value),
}

/// Up to so many changes.
pub fn edits(most: usize) -> impl Strategy<Value = Vec<Edit>> {
    let change = prop_oneof![
        any_json().prop_map(Change::Replace),
        Just(Change::Nudge),
        Just(Change::Remove),
        Just(Change::Repeat),
        ("[a-z_]{0,9}", any_json()).prop_map(|(name, value)| Change::Add(name, value)),
    ];
    let edit = (any::<Index>(), change).prop_map(|(place, change)| Edit { place, change });
    prop::collection::vec(edit, 1..=most)
}

/// The value with these changes, one after the other.
pub fn edited(value: &Value, edits: &[Edit]) -> Value {
    let mut value = value.clone();
    for edit in edits {
        let mut places = Vec::new();
        collect(&value, String::new(), &mut places);
        let place = edit.place.get(&places);
        change(&mut value, place, &edit.change);
    }
    value
}

/// Pointers to all that is in it.
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            for (number, inner) in list.iter().enumerate() {
                collect(inner, format!("{at}/{number}"), places);
            }
        }
        Value::Object(object) => {
            for (name, inner) in object {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(inner, format!("{at}/{name}"), places);
            }
        }
        _ => {}
    }
    places.push(at);
}

fn change(value: &mut Value, place: &str, change: &Change) {
    let Some(here) = value.pointer_mut(place) else { return };
    match (change, here) {
        (Change::Replace(other), here) => *here = other.clone(),
        (Change::Add(_, added), Value::Array(list)) => list.push(added.clone()),
        (Change::Add(name, added), Value::Object(object)) => {
            object.insert(name.clone(), added.clone());
        }
        (Change::Nudge, here) => nudge(here),
        (Change::Remove, _) => beside(value, place, &mut |list, at| drop(list.remove(at))),
        (Change::Repeat, _) => {
            beside(value, place, &mut |list, at| list.push(list[at].clone()));
        }
        (Change::Add(..), _) => {}
    }
}

fn nudge(here: &mut Value) {
    *here = match &*here {
        Value::Bool(it) => json!(!it),
        Value::Number(number) => match number.as_u64() {
            Some(number) => json!(number ^ 1),
            None => json!(0),
        },
        Value::String(text) => json!(format!("{text}x")),
        Value::Array(list) => list.first().cloned().into_iter().collect(),
        Value::Object(_) => Value::Object(Map::new()),
        Value::Null => json!(1),
    };
}

/// Does something to the list that the place is in; out of an object it is removed.
fn beside(value: &mut Value, place: &str, to_list: &mut dyn FnMut(&mut Vec<Value>, usize)) {
    let Some((above, name)) = place.rsplit_once('/') else { return };
    match value.pointer_mut(above) {
        Some(Value::Array(list)) => {
            if let Ok(at) = name.parse() {
                to_list(list, at);
            }
        }
        Some(Value::Object(object)) => {
            object.remove(&name.replace("~1", "/").replace("~0", "~"));
        }
        _ => {}
    }
}
