//! Values of several plain types (config variables and fields of metrics).

use muster_schemas::names::MAX_CONFIG_TEXT;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

/// Returns the schema of a value that is a boolean, a number or a text. Generators know "one of"
/// better than a list of types.
fn plain_value(description: &str, max_length: Option<usize>) -> OneOfBuilder {
    let of_type = |kind| ObjectBuilder::new().schema_type(kind);
    OneOfBuilder::new()
        .description(Some(description))
        .item(of_type(Type::Boolean))
        .item(of_type(Type::Number))
        .item(of_type(Type::String).max_length(max_length))
}

/// Describes a type by hand: utoipa requires this trait for the values of a map.
macro_rules! describe {
    ($(#[doc = $doc:literal])+ $name:ident: $schema:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub struct $name(pub String);

        impl utoipa::__dev::ComposeSchema for $name {
            fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $name {}
    };
}

describe! {
    /// A config variable's value.
    ConfigValue: plain_value("A config variable's value; its type is kept.", Some(MAX_CONFIG_TEXT))
}

describe! {
    /// The value of a field of a metric.
    MetricValue: plain_value("The value of a field of a metric.", None)
}
