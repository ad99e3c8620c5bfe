//! Attacks by form: algorithms, headers, structures, depths and lengths.

use coset::cbor::value::Value as Cbor;
use coset::iana::{Algorithm, HeaderParameter};
use coset::{CborSerializable as _, Header, HeaderBuilder};
use flotilla_protocol::codec;
use flotilla_protocol::head::Head;
use flotilla_protocol::trust::{Document as _, Role, sign};

use super::{ACCEPTED, Attack, envelope, protected, signature, with_headers};
use crate::documents::{Made, head, key};

const MALFORMED: &str = "malformed-document";
const ALGORITHM: &str = "algorithm-swap";

pub(super) fn attacks() -> Made<Vec<Attack>> {
    Ok(vec![
        algorithm_swap()?,
        payload_in_signature()?,
        critical_header()?,
        truncated()?,
        trailing_bytes()?,
        deep_nesting()?,
        huge_lengths()?,
        endless_document()?,
        unknown_layout()?,
    ])
}

fn next_head() -> Made<Head> {
    let mut head = head()?;
    head.header.version = 8;
    Ok(head)
}

/// The next head, signed by the director under these headers.
fn headed(protected: Header, unprotected: Header) -> Made<Vec<u8>> {
    with_headers(&next_head()?, "director", (protected, unprotected))
}

fn algorithm_swap() -> Made<Attack> {
    let director = key("director");
    let bare = HeaderBuilder::new().key_id(director.id().0.0.to_vec()).build();
    let claimed = HeaderBuilder::new().algorithm(Algorithm::EdDSA).build();
    let honest = protected(Algorithm::EdDSA, &director).build();
    let kid = HeaderBuilder::new().key_id(key("stranger").id().0.0.to_vec()).build();
    let fully_specified = protected(Algorithm::Ed25519, &director).build();
    Attack::on_device(
        "algorithm-swap",
        "good signatures under another algorithm's name, none, or an unprotected one",
    )?
    .head(
        headed(protected(Algorithm::ES256, &director).build(), Header::default())?,
        ALGORITHM,
    )?
    .head(
        headed(protected(Algorithm::Ed448, &director).build(), Header::default())?,
        ALGORITHM,
    )?
    .head(
        headed(protected(Algorithm::HMAC_256_256, &director).build(), Header::default())?,
        ALGORITHM,
    )?
    .head(headed(bare.clone(), Header::default())?, ALGORITHM)?
    .head(headed(bare, claimed.clone())?, ALGORITHM)?
    .head(headed(honest.clone(), claimed)?, ALGORITHM)?
    .head(headed(honest, kid)?, ALGORITHM)?
    .head(headed(fully_specified, Header::default())?, ACCEPTED)
}

fn payload_in_signature() -> Made<Attack> {
    let mut shown = head()?;
    shown.header.version = 9;
    let signed = codec::to_vec(&next_head()?)?;
    let headers = (protected(Algorithm::EdDSA, &key("director")).build(), Header::default());
    let mut inside = signature(headers, &Role::Director, Head::SCHEMA, &signed, "director")?;
    inside.payload = Some(signed);
    Attack::on_device(
        "payload-in-signature",
        "the signature carries the payload it was made over, the envelope shows another",
    )?
    .head(envelope(codec::to_vec(&shown)?, vec![inside])?, MALFORMED)
}

fn critical_header() -> Made<Attack> {
    let marked = protected(Algorithm::EdDSA, &key("director"))
        .add_critical(HeaderParameter::Alg)
        .build();
    Attack::on_device(
        "critical-header",
        "a header marked critical that this reader cannot honour (RFC 9052 section 3.1)",
    )?
    .head(headed(marked, Header::default())?, MALFORMED)
}

fn truncated() -> Made<Attack> {
    let whole = sign(&next_head()?, &key("director"))?;
    let mut attack = Attack::on_device("truncated", "an envelope that ends early, at several places")?;
    for keep in [0, 1, 2, whole.len() / 2, whole.len() - 65, whole.len() - 1] {
        attack = attack.head(whole.iter().take(keep).copied().collect(), MALFORMED)?;
    }
    attack.head(whole, ACCEPTED)
}

fn trailing_bytes() -> Made<Attack> {
    let mut after = sign(&next_head()?, &key("director"))?;
    after.push(0xf6);
    let mut payload = codec::to_vec(&next_head()?)?;
    payload.push(0xf6);
    let headers = (protected(Algorithm::EdDSA, &key("director")).build(), Header::default());
    let signed = signature(headers, &Role::Director, Head::SCHEMA, &payload, "director")?;
    Attack::on_device(
        "trailing-bytes",
        "bytes after the envelope, and bytes after the document inside it",
    )?
    .head(after, MALFORMED)?
    .head(envelope(payload, vec![signed])?, MALFORMED)
}

fn deep_nesting() -> Made<Attack> {
    let arrays = vec![0x81; 60_000];
    let maps: Vec<u8> = [0xa1, 0x00].repeat(30_000);
    let tags = vec![0xc1; 60_000];
    // Deep inside a header that is otherwise in order.
    let mut deep = Cbor::Null;
    for _level in 0..200 {
        deep = Cbor::Array(vec![deep]);
    }
    let unprotected = HeaderBuilder::new().text_value("deep".to_owned(), deep).build();
    let honest = protected(Algorithm::EdDSA, &key("director")).build();
    Ok(Attack::on_device("deep-nesting", "nesting meant to exhaust the stack")?
        .head(arrays.clone(), MALFORMED)?
        .head(maps.clone(), MALFORMED)?
        .head(tags.clone(), MALFORMED)?
        .head(headed(honest, unprotected)?, MALFORMED)?
        .decode("value", arrays, "Malformed")
        .decode("value", maps, "Malformed")
        .decode("value", tags, "Malformed"))
}

fn huge_lengths() -> Made<Attack> {
    let bytes = vec![0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let array = vec![0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let map = vec![0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let mut payload = vec![0x82];
    payload.extend_from_slice(&bytes);
    let list = Cbor::Map(vec![
        (
            "blob".into(),
            Cbor::Map(vec![
                ("sha256".into(), Cbor::Bytes(vec![0; 32])),
                ("length".into(), u64::MAX.into()),
            ]),
        ),
        ("digests".into(), Cbor::Bytes(vec![0; 32])),
    ]);
    let blob = serde_json::json!({ "sha256": format!("sha256:{}", "00".repeat(32)), "length": u64::MAX });
    Ok(
        Attack::on_device("huge-lengths", "lengths that promise exabytes in a few bytes")?
            .head(bytes.clone(), MALFORMED)?
            .head(array.clone(), MALFORMED)?
            .head(payload, MALFORMED)?
            .decode("value", bytes, "Malformed")
            .decode("value", array, "Malformed")
            .decode("value", map, "Malformed")
            .chunk_list(list.to_vec().map_err(|e| e.to_string())?, blob, "TooLong"),
    )
}

fn endless_document() -> Made<Attack> {
    let mut long = next_head()?;
    while codec::to_vec(&long)?.len() <= codec::MAX_DOCUMENT_BYTES {
        long.endpoints.push(flotilla_protocol::head::Endpoint {
            broker: "mqtts://a-broker-with-a-long-name.fleet.example:8883".repeat(20),
            device_api: "https://fleet.example".to_owned(),
        });
    }
    let payload = codec::to_vec(&long)?;
    let headers = (protected(Algorithm::EdDSA, &key("director")).build(), Header::default());
    let signed = signature(headers, &Role::Director, Head::SCHEMA, &payload, "director")?;
    let many = envelope(codec::to_vec(&next_head()?)?, vec![signed.clone(); 17])?;
    // A bundle of a few hundred bytes that decompresses without end.
    let bomb = codec::to_vec_zstd(&serde_bytes::ByteBuf::from(vec![0u8; 4 << 20]))?;
    let padding = vec![0x00; 80_000];
    Ok(Attack::on_device(
        "endless-data",
        "documents longer than any may be, too many signatures, a decompression bomb",
    )?
    .head(envelope(payload, vec![signed])?, MALFORMED)?
    .head(many, MALFORMED)?
    .head(padding, MALFORMED)?
    .decode("bundle", bomb, "TooLarge"))
}

fn unknown_layout() -> Made<Attack> {
    let mut newer = next_head()?;
    "flotilla.head.v2".clone_into(&mut newer.header.schema);
    Attack::on_device(
        "unknown-layout",
        "a document that says it has another layout than its signature is for",
    )?
    .head(sign(&newer, &key("director"))?, "wrong-role")
}
