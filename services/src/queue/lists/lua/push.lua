-- Adds hints that the queue does not hold, in their order, while there is capacity. A worker that waits for one is woken by that.
-- KEYS: waiting, held, refill. ARGV: capacity, at how many a relay is to be woken for more (0 for never), then id and traceparent
-- of each hint.
-- Returns a letter for each hint, n for new and k for known, up to the first one that there was no capacity for.
local outstanding = redis.call('zcard', KEYS[2])
local answers = {}
for i = 3, #ARGV, 2 do
  local id, trace = ARGV[i], ARGV[i + 1]
  local full = outstanding >= tonumber(ARGV[1])
  if full and not redis.call('zscore', KEYS[2], id) then
    if ARGV[2] ~= '0' then
      redis.call('set', KEYS[3], ARGV[2])
    end
    break
  elseif full or redis.call('zadd', KEYS[2], 'nx', 0, id) == 0 then
    table.insert(answers, 'k')
  else
    redis.call('rpush', KEYS[1], trace == '' and id or id .. ' ' .. trace)
    outstanding = outstanding + 1
    table.insert(answers, 'n')
  end
end
return table.concat(answers)
