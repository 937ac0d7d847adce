//! Names that are nearly right.

/// How many names are listed where none is near.
const MOST_NAMES: usize = 12;

/// What to say behind "there is no such …": the nearest name, or all of them where they are few.
pub(super) fn suggestion<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = nearest(wrong, known.iter().copied());
    match near.as_slice() {
        [] if known.is_empty() => "; there is none at all".to_owned(),
        [] if known.len() <= MOST_NAMES => format!("; known: {}", known.join(", ")),
        [] => String::new(),
        near => format!("; did you mean {}?", quoted(near)),
    }
}

/// Up to three names that a slip of the hand would explain, the nearest first.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let most = wrong.chars().count().div_ceil(3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| {
            let distance = strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
            (distance, name)
        })
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_gets_the_list() {
        assert_eq!(suggestion("sms:sned", ["otp", "sms:send"]), "; did you mean `sms:send`?");
        assert_eq!(suggestion("voice", ["otp", "lookup"]), "; known: otp, lookup");
        assert_eq!(suggestion("voice", []), "; there is none at all");
    }
}
