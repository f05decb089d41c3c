//! Frontend messages: no input panics, and what a view says can be built again.

use pg::wire::frontend::{BindHead, Message, Parse, rewrite, write};

/// Takes one input.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    // Seeds are whole messages; a length word is not needed here.
    let body = rest.get(4..).unwrap_or(rest);
    let Ok(message) = Message::read(*kind, body) else { return };
    match message {
        Message::Parse(parse) => {
            let types: Vec<_> = parse.types().collect();
            let mut built = Vec::new();
            write::parse(&mut built, parse.name, parse.sql, &types);
            assert_eq!(&built[5..], body);
            assert!(Parse::identity(body).is_ok());
        }
        Message::Bind(bind) => {
            let head = BindHead::read(body).expect("the whole could be read");
            assert_eq!((head.portal, head.statement), (bind.portal, bind.statement));
            assert_eq!(bind.values().count(), bind.values().len());
            let mut same = Vec::new();
            rewrite::bind(&mut same, body, bind.statement).expect("the whole could be read");
            assert_eq!(&same[5..], body);
            for index in 0..4 {
                let _ = bind.parameter_formats.of(index);
            }
        }
        Message::Query(sql) => {
            let mut built = Vec::new();
            write::query(&mut built, sql);
            assert_eq!(&built[5..], body);
        }
        Message::FunctionCall(call) => assert_eq!(call.arguments.count(), call.arguments.len()),
        _ => {}
    }
}
