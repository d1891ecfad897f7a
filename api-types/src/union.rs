//! Schemas of unions: a named schema for each kind, and a discriminator that selects it.

use utoipa::PartialSchema;
use utoipa::openapi::schema::{Discriminator, OneOfBuilder, Schema};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Type};

/// Returns the schema of a union: references to the schemas of its kinds, selected by `kind`.
pub(crate) fn schema(description: &str, kinds: &[(&str, &str)]) -> RefOr<Schema> {
    let reference = |name: &str| format!("#/components/schemas/{name}");
    let mapping = kinds.iter().map(|(kind, name)| ((*kind).to_owned(), reference(name)));
    let mut union = OneOfBuilder::new()
        .description(Some(description))
        .discriminator(Some(Discriminator::with_mapping("kind", mapping)));
    for (_, name) in kinds {
        union = union.item(Ref::from_schema_name(*name));
    }
    union.into()
}

/// Returns the schema of one kind: that of its fields, and `kind`.
pub(crate) fn kind_schema<T: PartialSchema>(kind: &str) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = T::schema() else {
        return T::schema();
    };
    let constant = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind])).build();
    let fields = std::mem::take(&mut object.properties);
    object.properties.insert("kind".to_owned(), constant.into());
    object.properties.extend(fields);
    object.required.insert(0, "kind".to_owned());
    RefOr::T(Schema::Object(object))
}

/// Describes an enumeration with the tag `kind` for the OpenAPI document.
macro_rules! describe_union {
    ($(#[doc = $doc:literal])* $union:ident { $($kind:literal => $fields:ident),+ $(,)? }) => {
        impl utoipa::PartialSchema for $union {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let kinds = [$(($kind, stringify!($fields))),+];
                $crate::union::schema(concat!($($doc),*).trim(), &kinds)
            }
        }

        impl utoipa::ToSchema for $union {
            fn schemas(
                schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>,
            ) {
                $(
                    let schema = $crate::union::kind_schema::<$fields>($kind);
                    schemas.push((stringify!($fields).to_owned(), schema));
                    <$fields as utoipa::ToSchema>::schemas(schemas);
                )+
            }
        }
    };
}

pub(crate) use describe_union;
