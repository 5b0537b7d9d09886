-- Forgets hints that are acknowledged, and wakes a relay where more is due and the queue has run low.
-- KEYS: waiting, held, refill. ARGV: the channel that wakes relays, then the ids.
redis.call('zrem', KEYS[2], unpack(ARGV, 2))
local refill_at = redis.call('get', KEYS[3])
if refill_at and redis.call('llen', KEYS[1]) <= tonumber(refill_at) then
  redis.call('del', KEYS[3])
  redis.call('publish', ARGV[1], 1)
end
