//! What the model costs: prices as data, usage as it is counted from a response, a meter per run.
//!
//! Amounts are millionths of a US dollar, in integers; a price in dollars per million tokens is the
//! same number in millionths per token. Rounding is upwards, once a response.
//!
//! The gateway gets a [`Meter`] as an argument and never reads the store: what a run may spend is
//! worked out before it starts. Requests that run at the same time may overshoot by their own cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The prices that are shipped.
const SHIPPED: &str = include_str!("../../data/prices.json");

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Input that the prompt cache knows nothing of.
    pub input: f64,
    /// Output, thinking included.
    pub output: f64,
    /// Input written to the five-minute cache.
    pub cache_write: f64,
    /// Input written to the one-hour cache.
    pub cache_write_1h: f64,
    /// Input read from the cache.
    pub cache_read: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelPrice {
    price: Price,
    long_prompt: Option<LongPrompt>,
}

/// Some models are dearer when the prompt is longer than `above` tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct LongPrompt {
    above: u64,
    price: Price,
}

/// A price list that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the price list is not of its form")]
pub struct InvalidPrices(#[from] serde_json::Error);

/// The models that are allowed: those with a known price.
#[derive(Debug, Clone)]
pub struct Prices(BTreeMap<String, ModelPrice>);

impl Prices {
    /// The shipped list.
    ///
    /// # Errors
    /// When the shipped list is broken; a test keeps that from happening.
    pub fn shipped() -> Result<Self, InvalidPrices> {
        Ok(Self(serde_json::from_str(SHIPPED)?))
    }

    /// This list with the owner's prices over it (the same form as `data/prices.json`).
    ///
    /// # Errors
    /// When `text` is not of that form.
    pub fn with_owners(mut self, text: &str) -> Result<Self, InvalidPrices> {
        self.0.extend(serde_json::from_str::<BTreeMap<String, ModelPrice>>(text)?);
        Ok(self)
    }

    /// Whether `model` has a price. A date at its end (`-20251001`) does not count.
    pub fn allows(&self, model: &str) -> bool {
        self.find(model).is_some()
    }

    /// The names of all models that are allowed.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What `model` costs; a long prompt may cost more.
    pub fn of(&self, model: &str) -> Option<Price> {
        self.find(model).map(|found| found.price)
    }

    fn find(&self, model: &str) -> Option<&ModelPrice> {
        self.0.get(model).or_else(|| self.0.get(undated(model)))
    }

    /// What one response costs, in millionths of a dollar; `None` for a model without a price.
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<u64> {
        let found = self.find(model)?;
        let price = match &found.long_prompt {
            Some(long) if usage.prompt() > long.above => long.price,
            _ => found.price,
        };
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let sum = [
            (usage.input_tokens, price.input),
            (usage.output_tokens, price.output),
            (usage.cache_write_tokens, price.cache_write),
            (usage.cache_write_1h_tokens, price.cache_write_1h),
            (usage.cache_read_tokens, price.cache_read),
        ]
        .iter()
        .map(|(tokens, price)| *tokens as f64 * price)
        .sum::<f64>();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        Some(sum.ceil() as u64)
    }
}

/// A model's name without the date at its end.
pub fn undated(model: &str) -> &str {
    let is_date = |end: &str| end.len() == 8 && end.bytes().all(|b| b.is_ascii_digit());
    model.rsplit_once('-').filter(|(_, end)| is_date(end)).map_or(model, |(name, _)| name)
}

/// Tokens that the model says it used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Input that was not in the prompt cache.
    pub input_tokens: u64,
    /// Output.
    pub output_tokens: u64,
    /// Input written to the five-minute cache.
    pub cache_write_tokens: u64,
    /// Input written to the one-hour cache.
    pub cache_write_1h_tokens: u64,
    /// Input read from the cache.
    pub cache_read_tokens: u64,
    /// Model requests that were answered.
    pub requests: u64,
}

impl Usage {
    /// Tokens of the whole prompt.
    pub const fn prompt(&self) -> u64 {
        self.input_tokens
            + self.cache_write_tokens
            + self.cache_write_1h_tokens
            + self.cache_read_tokens
    }

    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            cache_write_tokens: self.cache_write_tokens + other.cache_write_tokens,
            cache_write_1h_tokens: self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            cache_read_tokens: self.cache_read_tokens + other.cache_read_tokens,
            requests: self.requests + other.requests,
        }
    }
}

/// What a run has spent, and what it may spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    allowance: u64,
    spent: u64,
    usage: Usage,
}

impl Meter {
    /// A run that may spend `allowance` millionths of a dollar.
    pub const fn new(allowance: u64) -> Self {
        Self {
            allowance,
            spent: 0,
            usage: Usage {
                input_tokens: 0,
                output_tokens: 0,
                cache_write_tokens: 0,
                cache_write_1h_tokens: 0,
                cache_read_tokens: 0,
                requests: 0,
            },
        }
    }

    /// Whether another request may go out.
    pub const fn has_budget(&self) -> bool {
        self.spent < self.allowance
    }

    /// Counts one response.
    pub fn record(&mut self, usage: Usage, cost: u64) {
        self.usage = self.usage.plus(usage);
        self.spent = self.spent.saturating_add(cost);
    }

    /// Tokens so far.
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// Millionths of a dollar so far.
    pub const fn spent(&self) -> u64 {
        self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_priced_by_kind_of_token_and_rounded_up() -> Result<(), InvalidPrices> {
        let prices = Prices::shipped()?;
        let usage = Usage {
            input_tokens: 1000,
            output_tokens: 100,
            cache_read_tokens: 7,
            ..Usage::default()
        };
        assert_eq!(prices.cost("claude-sonnet-5-5", &usage), Some(2000 + 1000 + 1));
        assert_eq!(prices.cost("claude-haiku-4-5-20251001", &usage), Some(1000 + 500 + 1));
        assert_eq!(prices.cost("gpt-4", &usage), None);
        let long = Usage { input_tokens: 200_000, ..Usage::default() };
        assert_eq!(prices.cost("claude-haiku-5-5", &long), Some(100_000));
        Ok(())
    }

    #[test]
    fn the_owner_can_give_a_price() -> Result<(), InvalidPrices> {
        let own = r#"{"house-model":{"price":{"input":1,"output":1,"cache_write":1,
            "cache_write_1h":1,"cache_read":1}}}"#;
        assert!(Prices::shipped()?.with_owners(own)?.allows("house-model"));
        assert!(Prices::shipped()?.with_owners(r#"{"m":{"price":{"input":1}}}"#).is_err());
        Ok(())
    }

    #[test]
    fn a_meter_stops_at_its_allowance() {
        let mut meter = Meter::new(10);
        meter.record(Usage::default(), 9);
        assert!(meter.has_budget());
        meter.record(Usage::default(), 9);
        assert!(!meter.has_budget());
        assert_eq!(meter.spent(), 18);
    }
}
