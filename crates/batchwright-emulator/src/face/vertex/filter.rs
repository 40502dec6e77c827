//! The filter of a list of jobs: comparisons joined by AND, OR, NOT and parentheses.

use super::error::ApiError;

/// A filter that was read.
#[derive(Debug)]
pub(super) enum Filter {
    Any,
    Not(Box<Filter>),
    All(Vec<Filter>),
    One(Vec<Filter>),
    Compare {
        field: String,
        how: Compare,
        value: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Is,
    IsNot,
    Has,
    Above,
    Below,
    From,
    To,
}

const SIGNS: [(&str, Compare); 7] = [
    ("!=", Compare::IsNot),
    (">=", Compare::From),
    ("<=", Compare::To),
    ("=", Compare::Is),
    (":", Compare::Has),
    (">", Compare::Above),
    ("<", Compare::Below),
];

impl Filter {
    pub(super) fn read(text: &str) -> Result<Self, ApiError> {
        let mut rest = words(text).ok_or_else(|| bad(text))?;
        rest.reverse();
        if rest.is_empty() {
            return Ok(Self::Any);
        }
        let filter = one(&mut rest).ok_or_else(|| bad(text))?;
        if rest.is_empty() {
            Ok(filter)
        } else {
            Err(bad(text))
        }
    }

    /// Whether a job is taken, given its fields by name.
    pub(super) fn takes(&self, of: &dyn Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Any => true,
            Self::Not(inner) => !inner.takes(of),
            Self::All(all) => all.iter().all(|each| each.takes(of)),
            Self::One(one) => one.iter().any(|each| each.takes(of)),
            Self::Compare { field, how, value } => {
                let Some(found) = of(field) else {
                    return *how == Compare::IsNot;
                };
                let same = match value.strip_suffix('*') {
                    Some(head) => found.starts_with(head),
                    None => found == *value,
                };
                match how {
                    Compare::Is => same,
                    Compare::IsNot => !same,
                    Compare::Has => same || found.contains(value.as_str()),
                    // Times in RFC 3339 with one offset are ordered as texts.
                    Compare::Above => found > *value,
                    Compare::Below => found < *value,
                    Compare::From => found >= *value,
                    Compare::To => found <= *value,
                }
            }
        }
    }
}

fn bad(text: &str) -> ApiError {
    ApiError::invalid(format!("Invalid filter: {text:?}."))
}

/// Parentheses, the three joining words, and comparisons as one word each.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            '(' | ')' | ' ' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                if letter != ' ' {
                    words.push(letter.to_string());
                }
            }
            _ => word.push(letter),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    (!quoted).then_some(words)
}

fn one(rest: &mut Vec<String>) -> Option<Filter> {
    let mut any = vec![all(rest)?];
    while rest.pop_if(|word| word == "OR").is_some() {
        any.push(all(rest)?);
    }
    Some(Filter::One(any))
}

fn all(rest: &mut Vec<String>) -> Option<Filter> {
    let mut all = vec![term(rest)?];
    while rest.pop_if(|word| word == "AND").is_some() {
        all.push(term(rest)?);
    }
    Some(Filter::All(all))
}

fn term(rest: &mut Vec<String>) -> Option<Filter> {
    let word = rest.pop()?;
    match word.as_str() {
        "NOT" => Some(Filter::Not(Box::new(term(rest)?))),
        "(" => {
            let inner = one(rest)?;
            (rest.pop()? == ")").then_some(inner)
        }
        word => {
            // The sign that stands first; of two at one place the longer.
            let (at, sign, how) = SIGNS
                .iter()
                .filter_map(|(sign, how)| Some((word.find(sign)?, *sign, *how)))
                .min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()))?;
            Some(Filter::Compare {
                field: word[..at].to_owned(),
                how,
                value: word[at + sign.len()..].to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_compared() {
        let of = |name: &str| match name {
            "display_name" => Some("job one".to_owned()),
            "state" => Some("JOB_STATE_RUNNING".to_owned()),
            "labels.tool" => Some("bulk".to_owned()),
            "create_time" => Some("2026-11-22T09:00:00Z".to_owned()),
            _ => None,
        };
        for (text, takes) in [
            ("", true),
            (r#"display_name="job one""#, true),
            (r#"display_name:"job*""#, true),
            (r#"display_name="two""#, false),
            (r#"state="JOB_STATE_RUNNING" AND labels.tool=bulk"#, true),
            (r#"state="x" OR NOT labels.tool=other"#, true),
            (r#"NOT (state="x" OR labels.tool=bulk)"#, false),
            (r#"create_time>"2026-11-01T00:00:00Z""#, true),
            (r#"create_time<="2026-11-01T00:00:00Z""#, false),
            ("labels.none!=x", true),
        ] {
            assert_eq!(Filter::read(text).unwrap().takes(&of), takes, "{text}");
        }
        for text in ["display_name", "(state=x", r#"a="b"#, "a=b c=d", "AND"] {
            assert!(Filter::read(text).is_err(), "{text}");
        }
    }
}
