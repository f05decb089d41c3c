//! The lexer: no text panics, every token moves on, statements lie within the text.

use pg::sql::command::{effect, statements};
use pg::sql::lexer::Lexer;

/// Takes one input.
pub fn run(data: &[u8]) {
    for mut lexer in [Lexer::new(data), Lexer::with_backslash_strings(data)] {
        let mut left = data.len();
        while let Some(token) = lexer.next() {
            assert!(
                lexer.rest().len() < left
                    || matches!(token, pg::sql::lexer::Token::Unterminated(_))
            );
            left = lexer.rest().len();
            let _ = (token.name(), token.text(), token.argument());
        }
    }
    let length: usize = statements(data).map(<[u8]>::len).sum();
    assert!(length <= data.len());
    for statement in statements(data) {
        let _ = effect(statement);
    }
}
