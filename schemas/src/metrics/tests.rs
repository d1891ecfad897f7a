//! Batches read back, compressed or not; limits are held to.

use super::*;

fn batch() -> MetricBatch {
    MetricBatch {
        time: Timestamp(1_795_420_800_000_000),
        points: vec![
            Point::new("cpu")
                .tag("cpu", "cpu-total")
                .field("usage_user", 12.5)
                .field("usage_idle", 87.5),
            Point { offset: -5, ..Point::new("my_app").field("queue", 3_i64).field("ok", true) },
        ],
    }
}

#[test]
fn a_batch_round_trips_and_well_known_names_are_numbers() {
    let bytes = batch().encode();
    assert_eq!(MetricBatch::decode(&bytes), Ok(batch()));
    let many = MetricBatch { points: vec![batch().points[0].clone(); 100], ..batch() };
    let small = many.encode_compressed();
    assert!(small.len() < many.encode().len() / 4);
    assert_eq!(MetricBatch::decode(&small), Ok(many));
    assert!(MetricBatch::decode(&small[..20]).is_err());
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("usage_user") && text.contains("my_app"));
}

#[test]
fn an_exceeded_limit_is_named_in_the_error() {
    let mut no_field = batch();
    no_field.points[1].fields.clear();
    let error = MetricBatch::decode(&no_field.encode()).map(|_| ()).unwrap_err();
    assert!(matches!(error, InvalidBatch::Limit { point: 1, .. }), "{error}");
}

#[test]
fn a_name_written_as_number_and_as_text_is_a_duplicate() {
    let number = metric_names::number("usage_user").unwrap_or_default();
    let bytes = codec::encode(&(
        1,
        0,
        vec![(
            "cpu",
            BTreeMap::<u8, u8>::new(),
            ciborium::Value::Map(vec![
                (ciborium::Value::Integer(number.into()), ciborium::Value::Float(1.0)),
                (ciborium::Value::Text("usage_user".into()), ciborium::Value::Float(2.0)),
            ]),
        )],
    ));
    assert!(MetricBatch::decode(&bytes).is_err());
}

#[test]
fn a_large_batch_is_split_into_messages_within_the_broker_limit() {
    // Pseudorandom, so that it cannot be compressed (xorshift).
    let text = |index: u64, bytes: usize| {
        let mut state = index + 1;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + (state % 90) as u8)
        });
        Point::new("app").field("text", FieldValue::Text(noise.take(bytes).collect()))
    };
    let points: Vec<Point> = (0..1_000).map(|index| text(index, 700)).collect();
    let large = MetricBatch { points: points.clone(), ..batch() };
    for encode in [MetricBatch::encode, MetricBatch::encode_compressed] {
        let (messages, dropped) = large.clone().messages(encode);
        assert_eq!(dropped, 0);
        assert!(messages.len() > 1, "one message of {} bytes", messages[0].len());
        assert!(messages.iter().all(|message| message.len() <= MAX_BATCH_BYTES));
        let read = messages.iter().flat_map(|message| MetricBatch::decode(message).unwrap().points);
        assert!(read.eq(points.iter().cloned()), "points are lost or in another order");
    }

    let points = vec![text(1, 10), text(2, MAX_BATCH_BYTES), text(3, 10)];
    let (messages, dropped) = MetricBatch { points, ..batch() }.messages(MetricBatch::encode);
    assert_eq!((messages.len(), dropped), (2, 1));
    let (messages, dropped) =
        MetricBatch { points: vec![], ..batch() }.messages(MetricBatch::encode);
    assert_eq!((messages.len(), dropped), (1, 0));
}
