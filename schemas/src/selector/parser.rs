//! The parser, by recursive descent; the depth of the recursion is limited.

use std::str::FromStr;

use super::field::{AgentVersion, Field};
use super::lexer::{Lexer, Parsed, Part, Problem};
use super::metric::{Comparison, Metric, TagTest, own_metric};
use super::pattern::Pattern;
use super::{
    Condition, Expression, InvalidSelector, Label, MAX_CONDITIONS, MAX_DEPTH, MAX_LENGTH,
    MAX_VALUES, Selector, quantity,
};
use crate::names::{InvalidName, LabelKey, LabelValue};

/// Lexer that combine conditions, and are no keys.
const RESERVED: [&str; 5] = ["and", "or", "not", "in", "notin"];

/// Whether a label with this key is read as something else in a selector, unless it is written
/// `label.KEY`. New labels cannot have such a key.
#[must_use]
pub fn is_reserved_key(key: &LabelKey) -> bool {
    let key = key.as_str();
    let is_status = ["online", "offline"].contains(&key);
    let is_prefixed = ["label.", "metric."].iter().any(|prefix| key.starts_with(prefix));
    let is_field = Field::ALL.iter().any(|field| field.as_str() == key);
    is_status || is_prefixed || is_field || RESERVED.contains(&key)
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem = |Problem { text: problem, at }| InvalidSelector::new(text, problem, at);
        parse(text).map(Self).map_err(problem)
    }
}

fn parse(text: &str) -> Parsed<Option<Expression>> {
    if text.len() > MAX_LENGTH {
        let text = format!("it is longer than {MAX_LENGTH} bytes");
        return Err(Problem { text, at: 0 });
    }
    let mut parser = Parser { lexer: Lexer::new(text), conditions: 0, depth: 0 };
    if parser.lexer.is_at_end() {
        return Ok(None);
    }
    let expression = parser.any()?;
    if parser.lexer.is_at_end() {
        return Ok(Some(expression));
    }
    let found = parser.lexer.peek();
    let hint = match found {
        "&" | "&&" => "; did you mean 'and'?",
        "|" | "||" => "; did you mean 'or'?",
        _ => "",
    };
    parser.lexer.fail(format!("expected ',', 'and', 'or' or the end, found '{found}'{hint}"))
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    conditions: usize,
    depth: usize,
}

impl Parser<'_> {
    /// `all or all …`
    fn any(&mut self) -> Parsed<Expression> {
        let mut parts = Vec::new();
        loop {
            match self.all()? {
                Expression::Any(inner) => parts.extend(inner),
                part => parts.push(part),
            }
            if !self.lexer.take_word("or") {
                return Ok(one_or(parts, Expression::Any));
            }
        }
    }

    /// `part and part …`; a comma is the same as `and`.
    fn all(&mut self) -> Parsed<Expression> {
        let mut parts = Vec::new();
        loop {
            match self.part()? {
                Expression::All(inner) => parts.extend(inner),
                part => parts.push(part),
            }
            if !self.lexer.take(",") && !self.lexer.take_word("and") {
                return Ok(one_or(parts, Expression::All));
            }
        }
    }

    /// A condition, a negation, or an expression in parentheses.
    fn part(&mut self) -> Parsed<Expression> {
        let is_negation = self.lexer.take_not();
        if !is_negation && !self.lexer.take("(") {
            self.conditions += 1;
            if self.conditions > MAX_CONDITIONS {
                return self.lexer.fail(format!("more than {MAX_CONDITIONS} conditions"));
            }
            return self.condition();
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let text = format!("more than {MAX_DEPTH} nested parentheses and 'not'");
            return self.lexer.fail(text);
        }
        let expression = if is_negation {
            negate(self.part()?)
        } else {
            let inner = self.any()?;
            if !self.lexer.take(")") {
                return self.lexer.fail("')' is missing; expected ',', 'and', 'or' or ')'");
            }
            inner
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn condition(&mut self) -> Parsed<Expression> {
        let at = self.lexer.position();
        let is_explicit = self.lexer.take_prefix("metric.");
        let first = self.lexer.part()?;
        let (measurement, tags) = match first {
            // `"my.app".requests`, `disk[/data].used_percent`
            Part::Quoted(name) => (name, self.tags()?),
            Part::Bare(name) if self.lexer.is_next("[") => (name, self.tags()?),
            // `my.app."a.b"`
            Part::Bare(name) if self.lexer.is_next_quote() && name.ends_with('.') => {
                let measurement = name.trim_end_matches('.');
                let field = self.lexer.part()?.text();
                return self.metric(at, measurement, Vec::new(), field, is_explicit);
            }
            Part::Bare(name) if is_explicit => {
                let Some((measurement, field)) = name.rsplit_once('.') else {
                    let text = format!("expected a metric such as mem.available, found '{name}'");
                    return Err(Problem { text, at });
                };
                return self.metric(at, measurement, Vec::new(), field, true);
            }
            Part::Bare(name) => return self.named(name, at),
        };
        if !self.lexer.take_adjacent(".") {
            return self.lexer.fail("expected '.' and a field of the measurement");
        }
        let field = self.lexer.part()?.text();
        self.metric(at, measurement, tags, field, is_explicit)
    }

    /// A condition that starts with a name without quotation marks and brackets.
    fn named(&mut self, name: &str, at: usize) -> Parsed<Expression> {
        if name.is_empty() {
            let text = "expected a condition, such as env=prod, online or mem.available > 500Mi";
            return Err(Problem { text: text.to_owned(), at });
        }
        if RESERVED.contains(&name) {
            let text = format!(
                "expected a condition, found '{name}'; a label of this name is label.{name}"
            );
            return Err(Problem { text, at });
        }
        if let Some(key) = name.strip_prefix("label.") {
            return self.label(key, at, true);
        }
        if ["online", "offline"].contains(&name) {
            if let Some(operator) = self.lexer.peek_operator() {
                let text = format!(
                    "'{name}' takes no value, found '{operator}'; write '{name}', '!{name}' or \
                     status=…; a label of this name is label.{name}"
                );
                return self.lexer.fail(text);
            }
            return Ok(Expression::Is(Condition::Field(Field::Status, vec![Pattern::new(name)])));
        }
        if let Some(field) = Field::named(name) {
            return self.field(field);
        }
        let own = own_metric(name);
        let operator = self.lexer.peek_operator();
        let is_order = operator.is_some_and(|operator| operator.starts_with(['<', '>']));
        if is_order || own.is_some() {
            let Some((measurement, field)) = own.or_else(|| name.rsplit_once('.')) else {
                let text = format!(
                    "'{name}' is a label, and labels have no order; expected =, != or in, or a \
                     metric such as mem.available"
                );
                return self.lexer.fail(text);
            };
            return self.metric(at, measurement, Vec::new(), field, false);
        }
        self.label(name, at, false)
    }

    fn label(&mut self, key: &str, at: usize, is_explicit: bool) -> Parsed<Expression> {
        let key: LabelKey =
            key.parse().map_err(|error: InvalidName| Problem { text: error.to_string(), at })?;
        let label = Label { key, is_explicit };
        match self.values(true, label_value)? {
            Some((patterns, holds)) => Ok(test(Condition::Label(label, patterns), holds)),
            None => Ok(Expression::Is(Condition::HasLabel(label))),
        }
    }

    fn field(&mut self, field: Field) -> Parsed<Expression> {
        let operator = self.lexer.peek_operator().unwrap_or_default();
        if operator.starts_with(['<', '>']) {
            if field != Field::Agent {
                let text = format!("'{field}' has no order; expected =, != or in");
                return self.lexer.fail(text);
            }
            let comparison = self.comparison()?;
            let (word, at) = self.lexer.value()?;
            let version = word.parse::<AgentVersion>().map_err(|()| {
                let text =
                    format!("'{word}' is not a version; expected numbers such as 1.4 or 1.4.2");
                Problem { text, at }
            })?;
            return Ok(Expression::Is(Condition::Version(comparison, version)));
        }
        let check = |text: &str| {
            let pattern = Pattern::new(text);
            field.check(&pattern).map(|()| pattern)
        };
        match self.values(false, check)? {
            Some((patterns, holds)) => Ok(test(Condition::Field(field, patterns), holds)),
            None => Ok(Expression::Is(Condition::HasField(field))),
        }
    }

    fn metric(
        &mut self,
        at: usize,
        measurement: &str,
        tags: Vec<TagTest>,
        field: &str,
        is_explicit: bool,
    ) -> Parsed<Expression> {
        if measurement.is_empty() || field.is_empty() {
            let text = "expected MEASUREMENT.FIELD, such as mem.available".to_owned();
            return Err(Problem { text, at });
        }
        let name = format!("{measurement}.{field}");
        if self.lexer.peek_operator().is_none_or(|operator| operator.contains('n')) {
            return self.lexer.fail(format!(
                "'{name}' is a metric; expected <, <=, >, >=, = or != and a number; a label of \
                 this name is label.{name}"
            ));
        }
        let comparison = self.comparison()?;
        let (word, at) = self.lexer.value()?;
        let Some(number) = quantity::parse(word, field) else {
            let label = if comparison.is_equality() && tags.is_empty() {
                format!("; a label of this name is label.{name}")
            } else {
                String::new()
            };
            let text = format!(
                "'{word}' is not a number; write for example 20, 0.5, 500Mi, 2GB, 80%, 90s or \
                 7d{label}"
            );
            return Err(Problem { text, at });
        };
        let (measurement, field) = (measurement.to_owned(), field.to_owned());
        let metric = Metric { measurement, tags, field, is_explicit };
        Ok(Expression::Is(Condition::Metric(metric, comparison, number)))
    }

    /// `[/data]`, `[path=/data,fstype=ext4]`; nothing if there is no bracket.
    fn tags(&mut self) -> Parsed<Vec<TagTest>> {
        let mut tags = Vec::new();
        if !self.lexer.take_adjacent("[") {
            return Ok(tags);
        }
        loop {
            let (first, at) = self.lexer.value()?;
            let (name, value) = if self.lexer.take("=") {
                (Some(first.to_owned()), self.lexer.value()?.0)
            } else {
                (None, first)
            };
            if value.is_empty() || name.as_ref().is_some_and(String::is_empty) {
                let text = "expected a tag, such as /data or path=/data".to_owned();
                return Err(Problem { text, at });
            }
            tags.push(TagTest { name, value: Pattern::new(value) });
            if tags.len() > MAX_CONDITIONS {
                return self.lexer.fail(format!("more than {MAX_CONDITIONS} tags"));
            }
            if self.lexer.take("]") {
                return Ok(tags);
            }
            if !self.lexer.take(",") {
                return self.lexer.fail("']' is missing");
            }
        }
    }

    fn comparison(&mut self) -> Parsed<Comparison> {
        let found = Comparison::ALL.into_iter().find(|(text, _)| self.lexer.take(text));
        match found {
            Some((_, comparison)) => Ok(comparison),
            None => self.lexer.fail("expected <, <=, >, >=, = or !="),
        }
    }

    /// The operator and the values that follow a key, and whether one of them must match; `None`
    /// if the key stands alone.
    fn values(
        &mut self,
        may_be_empty: bool,
        check: impl Fn(&str) -> Result<Pattern, String>,
    ) -> Parsed<Option<(Vec<Pattern>, bool)>> {
        let pattern = |(text, at): (&str, usize)| {
            if text.is_empty() && !may_be_empty {
                return Err(Problem { text: "expected a value".to_owned(), at });
            }
            check(text).map_err(|text| Problem { text, at })
        };
        let holds = match self.lexer.take_operator() {
            Some("=" | "==") => return Ok(Some((vec![pattern(self.lexer.value()?)?], true))),
            Some("!=") => return Ok(Some((vec![pattern(self.lexer.value()?)?], false))),
            Some("in") => true,
            Some("notin") => false,
            Some(_) => return self.lexer.fail("expected =, !=, in or notin"),
            None => return self.lexer.check_alone(),
        };
        if !self.lexer.take("(") {
            return self.lexer.fail("'(' is missing; expected in (a,b)");
        }
        let mut patterns = vec![pattern(self.lexer.value()?)?];
        while self.lexer.take(",") {
            if patterns.len() == MAX_VALUES {
                return self.lexer.fail(format!("more than {MAX_VALUES} values"));
            }
            patterns.push(pattern(self.lexer.value()?)?);
        }
        if !self.lexer.take(")") {
            return self.lexer.fail("')' is missing; expected ',' or ')'");
        }
        Ok(Some((patterns, holds)))
    }
}

fn label_value(text: &str) -> Result<Pattern, String> {
    text.replace('*', "").parse::<LabelValue>().map_err(|_| {
        format!("'{}' {}", text.chars().take(80).collect::<String>(), LabelValue::RULE)
    })?;
    Ok(Pattern::new(text))
}

fn one_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            many(parts)
        }
    }
}

fn negate(expression: Expression) -> Expression {
    match expression {
        Expression::Not(inner) => *inner,
        other => Expression::Not(Box::new(other)),
    }
}

fn test(condition: Condition, holds: bool) -> Expression {
    if holds { Expression::Is(condition) } else { negate(Expression::Is(condition)) }
}
