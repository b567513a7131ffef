//! InitProducerId: a fresh id for each idempotent producer (KIP-98, KIP-360).

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::model::error_code::ErrorCode;
use crate::server::context::RequestContext;

/// Transactions are not served: a transactional id gets an error that no client retries.
pub(crate) async fn handle(
    ctx: &RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |code: ErrorCode| {
        InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if let Some(transactional_id) = &request.transactional_id {
        if transactional_id.is_empty() {
            return refused(ErrorCode::InvalidRequest);
        }
        let max = ctx.config().transaction_max_timeout.as_millis();
        if u128::try_from(request.transaction_timeout_ms)
            .map_or(true, |asked| asked == 0 || asked > max)
        {
            return refused(ErrorCode::InvalidTransactionTimeout);
        }
        return refused(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    // A producer that lost its sequence asks again with its old id (v3): a new id serves it as
    // well as a raised epoch, because nothing but the sequence is bound to the id.
    match ctx.shard.next_producer_id().await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(0),
        Err(code) => refused(code),
    }
}
